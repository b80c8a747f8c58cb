//! [`Cores`]: pinning threads.

/// The cores that the creating thread may use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cores(Option<imp::Set>);

impl Cores {
    pub(super) fn available() -> Self {
        let known = imp::available();
        if known.is_none() {
            tracing::debug!("threads cannot be pinned here; they run where the system puts them");
        }
        Self(known)
    }

    /// Pins the current thread to the core with this number, counted round the available ones.
    pub(super) fn pin(&self, number: usize) {
        if let Some(all) = &self.0
            && !imp::pin(all, number)
        {
            tracing::debug!(number, "the thread could not be pinned; it goes on without");
        }
    }

    /// Removes the pinning of the current thread, which it has inherited.
    pub(super) fn release(&self) {
        if let Some(all) = &self.0
            && !imp::release(all)
        {
            tracing::debug!("the thread stays pinned to the core of its event loop");
        }
    }
}

#[cfg(target_os = "linux")]
mod imp {
    use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
    use nix::unistd::Pid;

    pub(super) type Set = CpuSet;

    /// The current thread.
    const THIS: Pid = Pid::from_raw(0);

    pub(super) fn available() -> Option<Set> {
        sched_getaffinity(THIS).ok()
    }

    pub(super) fn pin(all: &Set, number: usize) -> bool {
        let cores = || (0..CpuSet::count()).filter(|core| all.is_set(*core) == Ok(true));
        let Some(turn) = number.checked_rem(cores().count()) else { return false };
        let Some(core) = cores().nth(turn) else { return false };
        let mut one = CpuSet::new();
        one.set(core).and_then(|()| sched_setaffinity(THIS, &one)).is_ok()
    }

    pub(super) fn release(all: &Set) -> bool {
        sched_setaffinity(THIS, all).is_ok()
    }
}

#[cfg(not(target_os = "linux"))]
mod imp {
    pub(super) type Set = std::convert::Infallible;

    pub(super) fn available() -> Option<Set> {
        None
    }

    pub(super) fn pin(all: &Set, _: usize) -> bool {
        match *all {}
    }

    pub(super) fn release(all: &Set) -> bool {
        match *all {}
    }
}
