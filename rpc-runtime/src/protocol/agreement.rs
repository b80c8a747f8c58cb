//! [`Agreement`]: for which methods the two ends of a connection have the same shapes.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::Hello;
use super::payload::Form;

/// What the provider's hello says of its methods' fingerprints, and whether they are this end's.
#[derive(Debug, Default)]
pub(crate) struct Agreement {
    /// Sorted by id.
    methods: Box<[Known]>,
}

#[derive(Debug)]
struct Known {
    id: u64,
    fingerprint: u64,
    /// The function whose fingerprint was last found to be equal, and to be different: types of
    /// this end that differ may share a method's id, and a connection.
    equal: AtomicUsize,
    different: AtomicUsize,
}

impl Agreement {
    pub(crate) fn new(hello: &Hello) -> Self {
        let told = hello.services.iter().flat_map(|service| &service.methods);
        let mut methods: Vec<Known> = told
            .filter(|(_, fingerprint)| *fingerprint != 0)
            .map(|&(id, fingerprint)| Known {
                id,
                fingerprint,
                equal: AtomicUsize::default(),
                different: AtomicUsize::default(),
            })
            .collect();
        methods.sort_by_key(|known| known.id);
        Self { methods: methods.into() }
    }

    /// How a call of the method is written: compact if its shapes are the same at both ends.
    #[inline]
    pub(crate) fn form(&self, id: u64, own: fn() -> u64) -> Form {
        let at = self.methods.binary_search_by_key(&id, |known| known.id);
        match at.ok().and_then(|at| self.methods.get(at)) {
            Some(known) if known.agrees(own) => Form::Compact,
            _ => Form::Named,
        }
    }
}

impl Known {
    #[inline]
    fn agrees(&self, own: fn() -> u64) -> bool {
        let asker = own as usize;
        if self.equal.load(Ordering::Relaxed) == asker {
            return true;
        }
        self.different.load(Ordering::Relaxed) != asker && self.compare(own)
    }

    /// Each asker always gets the same answer, so it does not matter whose is kept.
    #[cold]
    fn compare(&self, own: fn() -> u64) -> bool {
        let equal = own() == self.fingerprint;
        let kept = if equal { &self.equal } else { &self.different };
        kept.store(own as usize, Ordering::Relaxed);
        equal
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::HelloService;

    #[test]
    fn compact_is_for_equal_fingerprints_that_are_known_at_both_ends() {
        let service = |methods| HelloService { methods, ..HelloService::default() };
        let services = vec![service(vec![(9, 90), (7, 70)]), service(vec![(8, 0)])];
        let hello = Hello { services, ..Hello::default() };
        let agreement = Agreement::new(&hello);
        for _ in 0..2 {
            assert_eq!(agreement.form(7, || 70), Form::Compact);
            assert_eq!(agreement.form(7, || 71), Form::Named, "another type, the same connection");
            assert_eq!(agreement.form(9, || 70), Form::Named, "of another method");
            assert_eq!(agreement.form(8, || 0), Form::Named, "not known");
            assert_eq!(agreement.form(6, || 0), Form::Named, "not told");
        }
    }
}
