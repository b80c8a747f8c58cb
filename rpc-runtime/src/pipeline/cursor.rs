//! [`Cursor`]: the position of a traversal.

/// The position of a traversal, kept up to date while handlers are added and removed. The next
/// inbound handler is at `inbound`, the next outbound handler directly before `outbound`.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Cursor {
    pub(super) inbound: usize,
    pub(super) outbound: usize,
}

impl Cursor {
    pub(super) fn at(index: usize) -> Self {
        Self { inbound: index + 1, outbound: index }
    }

    /// The position of a replaced handler: the next handler in both directions is its replacement
    /// at `index`.
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
