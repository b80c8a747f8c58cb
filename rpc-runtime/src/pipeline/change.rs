//! The parts of a [`Change`](super::Change), generic over the type of the handler.

/// The kind of a change.
pub(super) enum Kind<H> {
    Add { position: Position, new: NewHandler<H> },
    Remove { name: String },
    Replace { old: String, new: NewHandler<H> },
}

/// The position of a handler that is added.
pub(super) enum Position {
    First,
    Last,
    Before(String),
    After(String),
}

/// A handler that is not yet in a pipeline.
pub(super) struct NewHandler<H> {
    /// `None` for a name after its type.
    pub(super) name: Option<String>,
    pub(super) type_name: &'static str,
    pub(super) handler: H,
}

impl<H> NewHandler<H> {
    /// A handler of type `T`, as `H`.
    pub(super) fn of<'n, T>(name: impl Into<Option<&'n str>>, handler: H) -> Self {
        Self {
            name: name.into().map(str::to_owned),
            type_name: short_name(std::any::type_name::<T>()),
            handler,
        }
    }
}

/// `a::b::Idle<c::D>` → `Idle`, and `a::<impl b::B for c::C<D>>::method::Idle`, too.
fn short_name(path: &'static str) -> &'static str {
    let (mut start, mut depth, mut before) = (0, 0_usize, ' ');
    for (at, char) in path.char_indices() {
        match char {
            '<' => depth += 1,
            '>' if before != '-' => depth = depth.saturating_sub(1),
            ':' if depth == 0 => start = at + 1,
            _ => {}
        }
        before = char;
    }
    path.get(start..).and_then(|name| name.split('<').next()).unwrap_or(path)
}
