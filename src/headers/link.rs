//! `Link` (RFC 8288), as far as registries page with it: where the next page of a list is.

use http::HeaderValue;

/// The query of the link to the next page; `None` on the last one.
///
/// Only the query is of interest: registries behind proxies write hosts and paths that lead nowhere, and
/// the next page is at the same path as the first.
pub fn next_query<'a>(values: impl IntoIterator<Item = &'a HeaderValue>) -> Option<String> {
    let texts = values.into_iter().filter_map(|value| value.to_str().ok());
    let links: Vec<_> = texts.flat_map(links).collect();
    let named = links
        .iter()
        .filter(|(_, parameters)| relations(parameters).any(|it| it.eq_ignore_ascii_case("next")))
        .find_map(|(target, _)| query_of(target));
    // Some registries do not say what the link to the next page is.
    let alone = || match links[..] {
        [(target, parameters)] if relations(parameters).next().is_none() => {
            query_of(target).filter(|query| names_page(query))
        }
        _ => None,
    };
    named.or_else(alone).map(str::to_owned)
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

fn query_of(target: &str) -> Option<&str> {
    let query = target.trim().split_once('?')?.1;
    let query = query.split('#').next().unwrap_or_default().trim();
    (!query.is_empty()).then_some(query)
}

/// What the target is to the list: the words of `rel`.
fn relations(parameters: &str) -> impl Iterator<Item = &str> {
    let parameters = parameters.split([';', ',']);
    let named = parameters.filter_map(|parameter| parameter.split_once('='));
    named
        .filter(|(name, _)| name.trim().eq_ignore_ascii_case("rel"))
        .flat_map(|(_, value)| value.trim().trim_matches(['"', '\'']).split_whitespace())
}

/// Whether a query has a parameter of those that registries page with.
fn names_page(query: &str) -> bool {
    let mut named = query.split('&').filter_map(|it| it.split_once('='));
    named.any(|(name, _)| matches!(name, "last" | "n" | "next_page"))
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
            "</v2/r/tags/list?last=b&n=2>; rel='next'",
            "</v2/r/tags/list?last=b&n=2>; rel='prev next'",
            "< /v2/r/tags/list?last=b&n=2 >; rel=\"next\"",
            "</v2/r/tags/list?last=b&n=2>",
            "</v2/r/tags/list?last=b&n=2>; title=\"more\"",
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
            "</v2/r/tags/list?n=2>; rel='prev'",
            "</about?page=2>",
            "</a?n=2>, </b?n=3>",
            "< ?  >; rel=next",
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
