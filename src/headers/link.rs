//! `Link` (RFC 8288), as far as registries page with it: where the next page of a list is.

use http::HeaderValue;

/// The query of the link to the next page; `None` on the last one.
///
/// Only the query is of interest: registries behind proxies write hosts and paths that lead nowhere, and
/// the next page is at the same path as the first.
pub fn next_query<'a>(values: impl IntoIterator<Item = &'a HeaderValue>) -> Option<String> {
    let texts = values.into_iter().filter_map(|value| value.to_str().ok());
    texts.flat_map(links).find_map(|(target, parameters)| {
        let query = target.split_once('?')?.1;
        let query = query.split('#').next().unwrap_or_default();
        (is_next(parameters) && !query.is_empty()).then(|| query.to_owned())
    })
}

/// The link to the next page of this same list, relative: no client then has to know how we are reached.
pub(crate) fn next(path: &str, query: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!("<{path}?{query}>; rel=\"next\"")).ok()
}

/// Targets and what stands between them and the next one.
fn links(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split('<')
        .skip(1)
        .filter_map(|link| link.split_once('>'))
}

fn is_next(parameters: &str) -> bool {
    parameters.split([';', ',']).any(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or_default();
        let mut relations = value.trim().trim_matches('"').split_ascii_whitespace();
        name.trim().eq_ignore_ascii_case("rel")
            && relations.any(|relation| relation.eq_ignore_ascii_case("next"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &'static str) -> Option<String> {
        next_query([&HeaderValue::from_static(text)])
    }

    #[test]
    fn the_next_page_is_found_however_it_is_written() {
        let page = Some("last=b&n=2".to_owned());
        for text in [
            "</v2/r/tags/list?last=b&n=2>; rel=\"next\"",
            "<https://elsewhere.example/v2/r/tags/list?last=b&n=2>;rel=next",
            "<?last=b&n=2>; title=\"more, or less\"; REL=\"last Next\"",
            "</first?n=2>; rel=\"first\", </v2/r?last=b&n=2#x>; rel=next",
        ] {
            assert_eq!(query(text), page, "{text}");
        }
    }

    #[test]
    fn what_is_no_next_page_ends_the_list() {
        for text in [
            "</v2/r/tags/list?n=2>; rel=\"prev\"",
            "</v2/r/tags/list>; rel=\"next\"",
            "</v2/r/tags/list?>; rel=\"next\"",
            "/v2/r/tags/list?n=2; rel=next",
            "</v2/r/tags/list?n=2",
            "",
        ] {
            assert_eq!(query(text), None, "{text}");
        }
        assert_eq!(next_query([]), None);
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let link = next("/v2/a/tags/list", "last=x&n=1").unwrap();
        assert_eq!(link, "</v2/a/tags/list?last=x&n=1>; rel=\"next\"");
        assert_eq!(next_query([&link]), Some("last=x&n=1".to_owned()));
        assert_eq!(next("/\n", "n=1"), None);
    }
}
