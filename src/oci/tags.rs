//! Lists of tags: upstream's pages, read without a copy of each tag, and put together into one text.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::name::Tag;

/// The tags of a repository, while its pages come in.
#[derive(Default)]
pub struct TagList {
    /// One to a line.
    lines: String,
    /// Where each begins.
    starts: Vec<u32>,
    /// Not in order, or not each once.
    mixed: bool,
}

/// A page that is not one of a list of tags.
#[derive(Debug)]
pub struct NoTagList;

impl TagList {
    /// Adds the tags of a page. Names that are not valid as a tag are left out.
    pub fn add(&mut self, page: &[u8]) -> Result<(), NoTagList> {
        let mut json = serde_json::Deserializer::from_slice(page);
        let mut found = false;
        let page = TagsPage {
            list: self,
            found: &mut found,
        };
        let read = page.deserialize(&mut json).and_then(|()| json.end());
        read.ok().filter(|()| found).ok_or(NoTagList)
    }

    /// How much text the pages brought so far.
    pub(crate) fn length(&self) -> usize {
        self.lines.len()
    }

    /// Whether a page has the form of such a list.
    pub(crate) fn is_page(page: &[u8]) -> bool {
        Self::default().add(page).is_ok()
    }

    /// All of them: sorted, each once, each followed by a line feed.
    pub fn into_lines(mut self) -> String {
        if !self.mixed {
            return self.lines;
        }
        let mut starts = std::mem::take(&mut self.starts);
        starts.sort_unstable_by_key(|start| self.line(*start));
        starts.dedup_by_key(|start| self.line(*start));
        let mut sorted = String::with_capacity(self.lines.len());
        for start in starts {
            sorted.push_str(self.line(start));
            sorted.push('\n');
        }
        sorted
    }

    fn line(&self, start: u32) -> &str {
        let rest = self.lines.get(start as usize..).unwrap_or_default();
        rest.split('\n').next().unwrap_or_default()
    }

    fn push(&mut self, tag: &str) {
        let Ok(start) = u32::try_from(self.lines.len()) else {
            return;
        };
        if !Tag::is_valid(tag) {
            return;
        }
        let last = self.starts.last();
        self.mixed |= last.is_some_and(|last| self.line(*last) >= tag);
        self.lines.push_str(tag);
        self.lines.push('\n');
        self.starts.push(start);
    }
}

/// Reads a page into a list.
struct TagsPage<'l> {
    list: &'l mut TagList,
    /// It has the key `tags`. What has not is a word of something else than a registry.
    found: &'l mut bool,
}

impl<'de> DeserializeSeed<'de> for TagsPage<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TagsPage<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of tags")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key()? {
            match key {
                TagsKey::Tags => {
                    map.next_value_seed(TagsField(&mut *self.list))?;
                    *self.found = true;
                }
                TagsKey::Errors => {
                    let errors: Option<Vec<IgnoredAny>> = map.next_value()?;
                    if errors.is_some_and(|errors| !errors.is_empty()) {
                        return Err(A::Error::custom("an error"));
                    }
                }
                TagsKey::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum TagsKey {
    Tags,
    Errors,
    #[serde(other)]
    Other,
}

/// A text, copied only where it has escapes.
#[derive(Deserialize)]
struct Text<'p>(#[serde(borrow)] Cow<'p, str>);

/// The value of `tags`. Go writes an empty list as null.
struct TagsField<'l>(&'l mut TagList);

impl<'de> DeserializeSeed<'de> for TagsField<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for TagsField<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("tags")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(Text(tag)) = list.next_element()? {
            self.0.push(&tag);
        }
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn lines(pages: &[&str]) -> Option<String> {
        let mut list = TagList::default();
        for page in pages {
            list.add(page.as_bytes()).ok()?;
        }
        Some(list.into_lines())
    }

    #[test]
    fn pages_are_one_sorted_list() {
        let found = lines(&[
            r#"{"tags":["v2","latest"]}"#,
            r#"{"name":"a/b","tags":["V1","v2","-no","a b"]}"#,
        ]);
        assert_eq!(found.as_deref(), Some("V1\nlatest\nv2\n"));
        let empty = [
            r#"{"tags":null}"#,
            r#"{"tags":[],"errors":null}"#,
            r#"{"errors":[],"tags":[]}"#,
        ];
        assert_eq!(lines(&empty).as_deref(), Some(""));
        for page in [
            "",
            "[]",
            "null",
            "{}",
            r#"{"name":"a/b"}"#,
            r#"{"message":"maintenance"}"#,
            r#"{"errors":[{"code":"UNKNOWN"}]}"#,
            r#"{"tags":["1"],"errors":[{"code":"UNKNOWN"}]}"#,
            r#"{"errors":"no","tags":[]}"#,
            r#"{"tags":{}}"#,
            r#"{"tags":[1]}"#,
            r#"{"tags":[]}x"#,
            "<html>",
        ] {
            assert_eq!(lines(&[page]), None, "{page}");
        }
    }

    #[test]
    fn an_empty_list_is_a_list_and_a_page_is_none() {
        assert!(TagList::is_page(br#"{"name":"x","tags":null}"#));
        assert!(TagList::is_page(br#"{"tags":[]}"#));
        assert!(!TagList::is_page(b"{}") && !TagList::is_page(b"<html>"));
    }

    proptest! {
        #[test]
        fn it_is_what_sorting_all_tags_gives(pages in proptest::collection::vec(proptest::collection::vec("[a-c.]{0,3}", 0..9), 0..4)) {
            let texts: Vec<_> = pages.iter().map(|tags| json!({ "tags": tags }).to_string()).collect();
            let texts: Vec<_> = texts.iter().map(String::as_str).collect();
            let mut all: Vec<String> = pages.concat();
            all.retain(|tag| tag.parse::<Tag>().is_ok());
            all.sort();
            all.dedup();
            let expected: String = all.iter().flat_map(|tag| [tag, "\n"]).collect();
            prop_assert_eq!(lines(&texts), Some(expected));
        }
    }
}
