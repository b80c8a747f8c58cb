/// The users besides root that may use the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// The user of this process.
    Owner,
    /// The members of the group to which the folder belongs.
    Group,
}

/// How a file is opened.
#[derive(Clone, Copy)]
pub(super) enum How {
    Read,
    Write,
    /// For writing. It must not exist.
    New,
}
