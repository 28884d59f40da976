//! Looks up the keys of a table as typed values, and notes what is wrong.

use super::keys::KeySpec;
use super::mistake::{Fault, Mistakes, Reported};
use super::value::Value;
use super::written::Section;
use crate::secret::Secret;

/// Looks up keys in one table. Mistakes add up; none hides another.
pub(super) struct Lookup<'a> {
    section: &'a Section,
    mistakes: &'a mut Mistakes,
}

impl<'a> Lookup<'a> {
    pub(super) fn new(section: &'a Section, mistakes: &'a mut Mistakes) -> Self {
        Self { section, mistakes }
    }

    /// The value of a key that has a default.
    pub(super) fn required<T>(
        &mut self,
        key: &KeySpec,
        read: impl Fn(&Value) -> Result<T, Fault>,
    ) -> Result<T, Reported> {
        if let Some(value) = self.optional(key, &read)? {
            return Ok(value);
        }
        let default = key.default.unwrap_or_default().to_owned();
        read(&Value::Untyped(Secret::new(default))).map_err(|fault| self.wrong(key, fault))
    }

    /// The value of a key; if it is not written, the inherited one, else the default.
    pub(super) fn inherited<T>(
        &mut self,
        key: &KeySpec,
        inherited: Option<T>,
        read: impl Fn(&Value) -> Result<T, Fault>,
    ) -> Result<T, Reported> {
        match inherited {
            Some(inherited) => Ok(self.optional(key, read)?.unwrap_or(inherited)),
            None => self.required(key, read),
        }
    }

    /// The value of a key, if it is written.
    ///
    /// If it is written several times (file, environment, flag), the last one counts. The others are checked too: they
    /// count as soon as the program is started without the flag.
    pub(super) fn optional<T>(
        &mut self,
        key: &KeySpec,
        read: impl Fn(&Value) -> Result<T, Fault>,
    ) -> Result<Option<T>, Reported> {
        let mut result = Ok(None);
        for written in self.section.values(key) {
            result = read(&written.value).map(Some).map_err(|fault| {
                let location = written.location.clone();
                self.mistakes
                    .note(location, self.section.path_of(key), fault)
            });
        }
        result
    }

    /// Notes what is wrong with a key in view of other keys.
    pub(super) fn wrong(&mut self, key: &KeySpec, fault: Fault) -> Reported {
        let location = self.section.location(key);
        self.mistakes
            .note(location, self.section.path_of(key), fault)
    }

    /// Whether a key is written, rightly or wrongly.
    pub(super) fn has(&self, key: &KeySpec) -> bool {
        !self.section.values(key).is_empty()
    }

    /// One lookup for each further login of an upstream.
    pub(super) fn further_logins<T>(
        &mut self,
        mut read: impl FnMut(&mut Lookup<'_>) -> T,
    ) -> Vec<T> {
        let sections = self.section.further_logins.iter();
        sections
            .map(|section| read(&mut Lookup::new(section, self.mistakes)))
            .collect()
    }
}
