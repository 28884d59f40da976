//! Reads the keys of a section as typed values, and notes what is wrong.

use super::keys::Key;
use super::mistake::{Fault, Mistakes, Place, Reported};
use super::value::Value;
use super::written::Section;

/// Reads one section. Mistakes add up; no reading hides another.
pub(super) struct Reader<'a> {
    pub(super) section: &'a Section,
    pub(super) mistakes: &'a mut Mistakes,
}

impl Reader<'_> {
    /// The value of a key that has a default.
    pub(super) fn required<T>(
        &mut self,
        key: &Key,
        read: impl Fn(&Value) -> Result<T, Fault>,
    ) -> Result<T, Reported> {
        if let Some(value) = self.optional(key, &read)? {
            return Ok(value);
        }
        let default = Value::Untyped(key.default.unwrap_or_default().to_owned());
        read(&default).map_err(|fault| self.wrong(key, fault))
    }

    /// The value of a key, if it is written.
    ///
    /// Written several times (file, environment, flag), the last counts; the others are checked all the same, since
    /// they come into force as soon as somebody starts the program without the flag.
    pub(super) fn optional<T>(
        &mut self,
        key: &Key,
        read: impl Fn(&Value) -> Result<T, Fault>,
    ) -> Result<Option<T>, Reported> {
        let mut result = Ok(None);
        for entry in self.section.entries(key) {
            result = match read(&entry.value) {
                Ok(value) => Ok(Some(value)),
                Err(fault) => {
                    Err(self
                        .mistakes
                        .note(entry.place.clone(), self.section.path(key), fault))
                }
            };
        }
        result
    }

    /// Notes what is wrong with a key in view of other keys.
    pub(super) fn wrong(&mut self, key: &Key, fault: Fault) -> Reported {
        let place = self
            .section
            .place(key)
            .or_else(|| self.section.place.clone());
        self.mistakes.note(
            place.unwrap_or(Place::Absent),
            self.section.path(key),
            fault,
        )
    }

    /// Whether a key is written, rightly or wrongly.
    pub(super) fn has(&self, key: &Key) -> bool {
        !self.section.entries(key).is_empty()
    }
}
