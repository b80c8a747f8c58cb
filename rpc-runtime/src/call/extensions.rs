//! [`Extensions`].

use std::any::{Any, TypeId};
use std::fmt;
use std::sync::Arc;

/// Values that interceptors attach to a call, one for each type. They are not sent to peers.
///
/// A method reads them with [`Context::extension`](crate::Context::extension).
#[derive(Clone, Default)]
pub struct Extensions(
    /// A handful at most, so a list.
    Vec<(TypeId, Arc<dyn Any + Send + Sync>)>,
);

impl Extensions {
    /// Sets the value of this type; it replaces an earlier one.
    pub fn insert<T: Any + Send + Sync>(&mut self, value: T) {
        self.0.retain(|(id, _)| *id != TypeId::of::<T>());
        self.0.push((TypeId::of::<T>(), Arc::new(value)));
    }

    /// The value of this type.
    pub fn get<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.find::<T>()?.downcast_ref()
    }

    /// The value of this type, shared.
    pub fn get_shared<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        Arc::clone(self.find::<T>()?).downcast().ok()
    }

    fn find<T: Any>(&self) -> Option<&Arc<dyn Any + Send + Sync>> {
        let found = self.0.iter().find(|(id, _)| *id == TypeId::of::<T>());
        found.map(|(_, value)| value)
    }
}

impl fmt::Debug for Extensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Extensions").field("values", &self.0.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_value_of_each_type_and_clones_are_independent() {
        let mut extensions = Extensions::default();
        extensions.insert(1_u32);
        extensions.insert("text");
        let before = extensions.clone();
        extensions.insert(2_u32);
        assert_eq!((extensions.get(), before.get()), (Some(&2_u32), Some(&1_u32)));
        assert_eq!(extensions.get_shared().as_deref(), Some(&"text"));
        assert_eq!(extensions.get::<u64>(), None);
    }
}
