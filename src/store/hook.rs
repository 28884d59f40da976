//! A call from a lower part of the store to a higher one, which the lower one does not know.

use std::sync::OnceLock;

/// Does nothing until it is set, which happens once, while the store is opened.
pub(crate) struct Hook<T: ?Sized>(OnceLock<Call<T>>);

type Call<T> = Box<dyn Fn(&T) + Send + Sync>;

impl<T: ?Sized> Default for Hook<T> {
    fn default() -> Self {
        Self(OnceLock::new())
    }
}

impl<T: ?Sized> Hook<T> {
    pub(crate) fn set(&self, call: impl Fn(&T) + Send + Sync + 'static) {
        let _ = self.0.set(Box::new(call));
    }

    pub(crate) fn call(&self, about: &T) {
        if let Some(call) = self.0.get() {
            call(about);
        }
    }
}
