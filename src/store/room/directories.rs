//! Which directories there are: those in which something is.

use std::collections::HashMap;

use crate::store::key::StoreDirectory;

/// How many files and directories are in each.
#[derive(Default)]
pub(super) struct Directories(HashMap<StoreDirectory, u32>);

impl Directories {
    pub(super) fn count(&self) -> u64 {
        self.0.len() as u64
    }

    pub(super) fn contains(&self, directory: &StoreDirectory) -> bool {
        self.0.contains_key(directory)
    }

    /// Something more is in `directory`.
    pub(super) fn enter(&mut self, directory: StoreDirectory) {
        let mut next = Some(directory);
        while let Some(directory) = next {
            let parent = directory.parent();
            let within = self.0.entry(directory).or_default();
            *within += 1;
            next = parent.filter(|_| *within == 1);
        }
    }

    /// Something in `directory` is gone; how many directories are empty now, from this one upwards.
    pub(super) fn leave(&mut self, directory: StoreDirectory) -> usize {
        let mut emptied = 0;
        let mut next = Some(directory);
        while let Some(directory) = next {
            let Some(within) = self.0.get_mut(&directory) else {
                break;
            };
            *within = within.saturating_sub(1);
            if *within > 0 {
                break;
            }
            self.0.remove(&directory);
            emptied += 1;
            next = directory.parent();
        }
        emptied
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
