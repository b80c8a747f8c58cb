//! [`Cursor`]: the place of a traversal.

/// Where a traversal stands while handlers around it come and go: the next inbound handler is at
/// `inbound`, the next outbound one right before `outbound`.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Cursor {
    pub(super) inbound: usize,
    pub(super) outbound: usize,
}

impl Cursor {
    pub(super) fn at(index: usize) -> Self {
        Self { inbound: index + 1, outbound: index }
    }

    /// Both directions lead from a handler at `index` that was replaced to its replacement.
    pub(super) fn replaced_at(index: usize) -> Self {
        Self { inbound: index, outbound: index + 1 }
    }

    pub(super) fn replaced(&mut self, at: usize) {
        if *self == Self::at(at) {
            *self = Self::replaced_at(at);
        }
    }

    pub(super) fn inserted(&mut self, at: usize) {
        if at < self.inbound {
            self.inbound += 1;
        }
        if at <= self.outbound {
            self.outbound += 1;
        }
    }

    pub(super) fn removed(&mut self, at: usize) {
        if at < self.inbound {
            self.inbound -= 1;
        }
        if at < self.outbound {
            self.outbound -= 1;
        }
    }
}
