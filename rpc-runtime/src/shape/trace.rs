//! Tracing: a type is deserialized from dummy values, in several passes, until all parts were seen.
//!
//! A pass sees one variant of each enum, so the results of earlier passes determine the next
//! variant. Recursion of a type is ended as early as possible: options are `None`, sequences are
//! empty, and enums take a variant that ends the recursion. A visitor that refuses its dummy is
//! consumed, so the next pass uses another dummy in that place.
//!
//! In the worst case, a type has no shape.

use std::any::type_name;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::Serialize;
use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error, IntoDeserializer,
    MapAccess, SeqAccess, VariantAccess, Visitor,
};

use super::dummy::Sample;
use super::record::record;
use super::tree::{STREAM, Shape, UNIT_VARIANT};

/// Maximum values of all passes together. Limits the time, usually to some milliseconds.
const MAX_VALUES: usize = 1 << 18;
/// Maximum values of one pass: enough for a large type.
const MAX_VALUES_OF_A_PASS: usize = 1 << 12;
/// Maximum nesting of a type, without recursion.
const MAX_DEPTH: usize = 48;
/// Maximum sets of dummies that are tried, when a type refuses all of its dummies together.
const MAX_ROUNDS: usize = 4;

/// The shape of `T`, if it can be traced completely.
pub(super) fn trace<T: Serialize + DeserializeOwned>() -> Option<Shape> {
    // The user's code may panic, for example because of a dummy.
    catch_unwind(AssertUnwindSafe(trace_complete::<T>)).ok().flatten()
}

fn trace_complete<T: Serialize + DeserializeOwned>() -> Option<Shape> {
    let mut choices = Choices::default();
    let mut shape = Shape::Unseen;
    while !shape.is_complete() {
        let before = shape.to_string();
        match pass::<T>(&mut choices, &shape, false) {
            Outcome::Seen(seen) => shape.merge(seen).ok()?,
            Outcome::Again => continue,
            Outcome::Refused => {
                choices.round += 1;
                if choices.round == MAX_ROUNDS {
                    return None;
                }
                continue;
            }
            Outcome::Unknown => return None,
        }
        if shape.to_string() == before {
            return None;
        }
    }
    // Empty or zero values may be written in another way. A type that refuses them has no such
    // values.
    match pass::<T>(&mut choices, &shape, true) {
        Outcome::Seen(seen) => shape.merge(seen).ok()?,
        Outcome::Again | Outcome::Refused => {}
        Outcome::Unknown => return None,
    }
    Some(shape)
}

enum Outcome {
    Seen(Shape),
    /// Repeat with the choices of this pass.
    Again,
    /// The type accepted each dummy, but refused the value made of them.
    Refused,
    /// The type cannot be traced.
    Unknown,
}

fn pass<T: Serialize + DeserializeOwned>(
    choices: &mut Choices,
    known: &Shape,
    empty: bool,
) -> Outcome {
    let pass = RefCell::new(Pass {
        choices,
        empty,
        path: Vec::new(),
        containers: Vec::new(),
        levels: 0,
        recursion: None,
        exits: Vec::new(),
        dummies: Vec::new(),
        values: 0,
        abort: None,
    });
    let mut seen = Shape::Unseen;
    let value = T::deserialize(Tracer { pass: &pass, known: Some(known), seen: &mut seen });
    let pass = pass.into_inner();
    match (pass.abort, value) {
        (Some(Abort::Unknown), _) => Outcome::Unknown,
        (Some(Abort::Again), _) => Outcome::Again,
        (None, Err(Aborted)) => Outcome::Refused,
        (None, Ok(value)) => match record(&value) {
            Some(written) if seen.matches(&written, &pass.dummies) => Outcome::Seen(seen),
            _ => Outcome::Unknown,
        },
    }
}

/// State that is kept from one pass to the next.
#[derive(Default)]
struct Choices {
    /// The number of refused dummies by place.
    refused: HashMap<Vec<usize>, usize>,
    /// The number of times that all dummies were refused together.
    round: usize,
    /// The variants with which recursions end.
    exits: Vec<(Container, usize)>,
    /// The number of values in all passes.
    values: usize,
}

/// A type that may contain itself, identified as far as possible.
#[derive(Clone, PartialEq)]
struct Container {
    visitor: &'static str,
    name: &'static str,
    parts: &'static [&'static str],
}

impl Container {
    fn of<V>(name: &'static str, parts: &'static [&'static str]) -> Self {
        Self { visitor: type_name::<V>(), name, parts }
    }
}

/// Why a pass ends early.
enum Abort {
    Again,
    Unknown,
}

struct Pass<'p> {
    choices: &'p mut Choices,
    /// Values are empty or zero.
    empty: bool,
    /// The current place in the type.
    path: Vec<usize>,
    /// The containers around the place, with their levels.
    containers: Vec<(Container, usize)>,
    /// The number of shapes around the place.
    levels: usize,
    /// The number of containers around the first one that contains itself.
    recursion: Option<usize>,
    /// The enums around the place within that container: the chosen variant, and the number of
    /// variants.
    exits: Vec<(Container, usize, usize)>,
    /// All accepted dummies.
    dummies: Vec<(&'static str, u64)>,
    values: usize,
    abort: Option<Abort>,
}

impl Pass<'_> {
    fn is_short(&self) -> bool {
        self.empty || self.recursion.is_some()
    }

    fn unknown(&mut self) -> Aborted {
        self.abort = Some(Abort::Unknown);
        Aborted
    }

    fn again(&mut self) -> Aborted {
        self.abort.get_or_insert(Abort::Again);
        Aborted
    }

    fn count(&mut self) -> Result<(), Aborted> {
        self.values += 1;
        self.choices.values += 1;
        let too_many = self.values > MAX_VALUES_OF_A_PASS || self.choices.values > MAX_VALUES;
        if too_many || self.path.len() > MAX_DEPTH { Err(self.unknown()) } else { Ok(()) }
    }

    /// The next dummy for this place; `None` if there is none left.
    fn sample<S: Sample>(&self) -> Option<S> {
        let mut samples = S::samples(self.dummies.len());
        let refused = self.choices.refused.get(&self.path).copied().unwrap_or(0);
        if refused >= samples.len() {
            return None;
        }
        let at = refused.saturating_add(self.choices.round) % samples.len();
        Some(samples.swap_remove(at))
    }

    /// Enters a container. If it is contained in itself, returns how many levels up.
    fn enter(&mut self, container: &Container) -> Result<Option<usize>, Aborted> {
        let from = self.recursion.unwrap_or(0);
        let known = self.containers.iter().skip(from).rev().find(|(known, _)| known == container);
        let up = known.map(|(_, level)| self.levels.saturating_sub(*level));
        if up.is_some() {
            if self.recursion.is_some() {
                return Err(self.find_exit());
            }
            self.recursion = Some(self.containers.len());
        }
        self.containers.push((container.clone(), self.levels));
        Ok(up)
    }

    /// Called when the chosen variants do not end the recursion: the innermost enum takes its next
    /// variant.
    fn find_exit(&mut self) -> Aborted {
        let next = self.exits.iter().rev().find(|(_, variant, variants)| variant + 1 < *variants);
        let Some((container, variant, _)) = next.cloned() else { return self.unknown() };
        let exits = &mut self.choices.exits;
        exits.retain(|(known, _)| *known != container);
        exits.push((container, variant + 1));
        self.again()
    }

    /// The number of the variant that an enum takes.
    fn variant(&self, container: &Container, known: Option<&Shape>) -> usize {
        if self.recursion.is_some() {
            let exits = &self.choices.exits;
            return exits.iter().find(|(known, _)| known == container).map_or(0, |exit| exit.1);
        }
        match known {
            Some(Shape::Enum(variants)) if !self.empty => {
                variants.iter().position(|(_, content)| !content.is_complete()).unwrap_or(0)
            }
            _ => 0,
        }
    }
}

/// The error for serde. The reason is in the [`Pass`].
#[derive(Debug)]
struct Aborted;

impl fmt::Display for Aborted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a dummy value was refused")
    }
}

impl std::error::Error for Aborted {}

impl Error for Aborted {
    fn custom<M: fmt::Display>(_: M) -> Self {
        Self
    }
}

/// A deserializer that gives a dummy for one place, and notes the requested type.
struct Tracer<'t, 'p> {
    pass: &'t RefCell<Pass<'p>>,
    /// The result of earlier passes for this place.
    known: Option<&'t Shape>,
    seen: &'t mut Shape,
}

impl<'t, 'p> Tracer<'t, 'p> {
    /// A value without parts.
    fn scalar<S: Sample, R>(
        self,
        kind: &'static str,
        visit: impl FnOnce(S) -> Result<R, Aborted>,
    ) -> Result<R, Aborted> {
        let mut pass = self.pass.borrow_mut();
        pass.count()?;
        let sample = if pass.empty { Some(S::empty()) } else { pass.sample() };
        let Some(sample) = sample else { return Err(pass.unknown()) };
        let dummy = sample.digest();
        pass.dummies.push((kind, dummy));
        *self.seen = Shape::Scalar(kind, dummy);
        drop(pass);
        visit(sample).inspect_err(|_| {
            let mut pass = self.pass.borrow_mut();
            let path = pass.path.clone();
            *pass.choices.refused.entry(path).or_insert(0) += 1;
            pass.again();
        })
    }

    /// A part of this place.
    fn part<R>(
        pass: &RefCell<Pass<'p>>,
        at: usize,
        run: impl FnOnce() -> Result<R, Aborted>,
    ) -> Result<R, Aborted> {
        {
            let mut pass = pass.borrow_mut();
            pass.count()?;
            pass.path.push(at);
            pass.levels += 1;
        }
        let result = run();
        let mut pass = pass.borrow_mut();
        pass.path.pop();
        pass.levels -= 1;
        result
    }

    /// A type that may contain itself. `run` deserializes it.
    fn container<R>(
        self,
        container: Container,
        run: impl FnOnce(Tracer<'_, 'p>) -> Result<R, Aborted>,
    ) -> Result<R, Aborted> {
        let Self { pass, known, seen } = self;
        let up = pass.borrow_mut().enter(&container)?;
        let mut inner = Shape::Unseen;
        let known = if up.is_some() { None } else { known };
        let result = run(Tracer { pass, known, seen: &mut inner });
        let mut pass = pass.borrow_mut();
        pass.containers.pop();
        *seen = match up {
            Some(up) => {
                pass.recursion = None;
                Shape::Recursion(up, Box::new(inner))
            }
            None => inner,
        };
        result
    }

    /// A fixed number of parts, read in turn.
    fn parts<V: Visitor<'static>>(
        self,
        count: usize,
        visitor: V,
        shape: impl FnOnce(Vec<Shape>) -> Shape,
    ) -> Result<V::Value, Aborted> {
        let Self { pass, known, seen } = self;
        pass.borrow_mut().count()?;
        let mut elements = Elements { pass, known, count, seen: Vec::new() };
        let value = visitor.visit_seq(&mut elements)?;
        if elements.seen.len() != count {
            return Err(pass.borrow_mut().unknown());
        }
        *seen = shape(elements.seen);
        Ok(value)
    }

    fn fields<V: Visitor<'static>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Aborted> {
        self.parts(fields.len(), visitor, |seen| {
            Shape::Struct(fields.iter().copied().zip(seen).collect())
        })
    }

    fn give_up<R>(self) -> Result<R, Aborted> {
        Err(self.pass.borrow_mut().unknown())
    }
}

macro_rules! leaves {
    ($($method:ident $visit:ident $kind:literal $type:ty;)*) => {
        $(fn $method<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Aborted> {
            self.scalar($kind, |sample: $type| visitor.$visit(sample))
        })*
    };
}

impl<'p> Deserializer<'static> for Tracer<'_, 'p> {
    type Error = Aborted;

    leaves! {
        deserialize_bool visit_bool "bool" bool;
        deserialize_i8 visit_i8 "i8" i8;
        deserialize_i16 visit_i16 "i16" i16;
        deserialize_i32 visit_i32 "i32" i32;
        deserialize_i64 visit_i64 "i64" i64;
        deserialize_i128 visit_i128 "i128" i128;
        deserialize_u8 visit_u8 "u8" u8;
        deserialize_u16 visit_u16 "u16" u16;
        deserialize_u32 visit_u32 "u32" u32;
        deserialize_u64 visit_u64 "u64" u64;
        deserialize_u128 visit_u128 "u128" u128;
        deserialize_f32 visit_f32 "f32" f32;
        deserialize_f64 visit_f64 "f64" f64;
        deserialize_char visit_char "char" char;
        deserialize_str visit_string "str" String;
        deserialize_string visit_string "str" String;
        deserialize_bytes visit_byte_buf "bytes" Vec<u8>;
        deserialize_byte_buf visit_byte_buf "bytes" Vec<u8>;
    }

    fn deserialize_unit<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Aborted> {
        self.scalar("unit", |()| visitor.visit_unit())
    }

    fn deserialize_unit_struct<V: Visitor<'static>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Aborted> {
        self.scalar("unit struct", |()| visitor.visit_unit())
    }

    fn deserialize_option<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Aborted> {
        let Self { pass, known, seen } = self;
        if pass.borrow().is_short() {
            *seen = Shape::Option(Box::new(Shape::Unseen));
            return visitor.visit_none();
        }
        let known = match known {
            Some(Shape::Option(known)) => Some(&**known),
            _ => None,
        };
        let mut inner = Shape::Unseen;
        let value =
            Self::part(pass, 0, || visitor.visit_some(Tracer { pass, known, seen: &mut inner }))?;
        *seen = Shape::Option(Box::new(inner));
        Ok(value)
    }

    fn deserialize_newtype_struct<V: Visitor<'static>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Aborted> {
        if name == rmp_serde::MSGPACK_EXT_STRUCT_NAME {
            return self.give_up();
        }
        if name == STREAM {
            let Self { pass, known, seen } = self;
            let known = match known {
                Some(Shape::Stream(known)) => Some(&**known),
                _ => None,
            };
            let mut item = Shape::Unseen;
            let value = Self::part(pass, 0, || {
                visitor.visit_some(Tracer { pass, known, seen: &mut item })
            })?;
            *seen = Shape::Stream(Box::new(item));
            return Ok(value);
        }
        self.container(Container::of::<V>(name, &[]), |inner| visitor.visit_newtype_struct(inner))
    }

    fn deserialize_seq<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Aborted> {
        let Self { pass, known, seen } = self;
        let count = usize::from(!pass.borrow().is_short());
        pass.borrow_mut().count()?;
        let mut elements = Elements { pass, known, count, seen: Vec::new() };
        let value = visitor.visit_seq(&mut elements)?;
        *seen = Shape::Seq(Box::new(elements.seen.pop().unwrap_or(Shape::Unseen)));
        Ok(value)
    }

    fn deserialize_map<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Aborted> {
        let Self { pass, known, seen } = self;
        pass.borrow_mut().count()?;
        let given = pass.borrow().is_short();
        let mut entry = Entry { pass, known, given, key: Shape::Unseen, value: Shape::Unseen };
        let value = visitor.visit_map(&mut entry)?;
        *seen = Shape::Map(Box::new((entry.key, entry.value)));
        Ok(value)
    }

    fn deserialize_tuple<V: Visitor<'static>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Aborted> {
        self.parts(len, visitor, Shape::Tuple)
    }

    fn deserialize_tuple_struct<V: Visitor<'static>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Aborted> {
        self.container(Container::of::<V>(name, &[]), |inner| {
            inner.parts(len, visitor, Shape::Tuple)
        })
    }

    fn deserialize_struct<V: Visitor<'static>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Aborted> {
        self.container(Container::of::<V>(name, fields), |inner| inner.fields(fields, visitor))
    }

    fn deserialize_enum<V: Visitor<'static>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Aborted> {
        let container = Container::of::<V>(name, variants);
        self.container(container.clone(), |Tracer { pass, known, seen }| {
            let at = pass.borrow().variant(&container, known);
            let Some(variant) = variants.get(at) else {
                return Err(pass.borrow_mut().unknown());
            };
            let recursion = pass.borrow().recursion.is_some();
            if recursion {
                pass.borrow_mut().exits.push((container, at, variants.len()));
            }
            let known = match known {
                Some(Shape::Enum(known)) => known.get(at).map(|(_, content)| content),
                _ => None,
            };
            let mut content = Shape::Unseen;
            let value = Self::part(pass, at, || {
                visitor.visit_enum(Variant { pass, variant, known, content: &mut content })
            })?;
            if recursion {
                pass.borrow_mut().exits.pop();
            }
            let mut seen_variants: Vec<_> =
                variants.iter().map(|variant| (*variant, Shape::Unseen)).collect();
            if let Some(seen) = seen_variants.get_mut(at) {
                seen.1 = content;
            }
            *seen = Shape::Enum(seen_variants);
            Ok(value)
        })
    }

    /// The type depends on the input, so it cannot be traced.
    fn deserialize_any<V: Visitor<'static>>(self, _: V) -> Result<V::Value, Aborted> {
        self.give_up()
    }

    /// A key of a flattened struct, which reads as a map.
    fn deserialize_identifier<V: Visitor<'static>>(self, _: V) -> Result<V::Value, Aborted> {
        self.give_up()
    }

    fn deserialize_ignored_any<V: Visitor<'static>>(self, _: V) -> Result<V::Value, Aborted> {
        self.give_up()
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

/// The elements of a sequence, a tuple, a struct.
struct Elements<'t, 'p> {
    pass: &'t RefCell<Pass<'p>>,
    known: Option<&'t Shape>,
    count: usize,
    seen: Vec<Shape>,
}

impl SeqAccess<'static> for &mut Elements<'_, '_> {
    type Error = Aborted;

    fn next_element_seed<S: DeserializeSeed<'static>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Aborted> {
        let at = self.seen.len();
        if at == self.count {
            return Ok(None);
        }
        let known = match self.known {
            Some(Shape::Seq(known)) => Some(&**known),
            Some(Shape::Tuple(known)) => known.get(at),
            Some(Shape::Struct(known)) => known.get(at).map(|(_, known)| known),
            _ => None,
        };
        let pass = self.pass;
        let mut seen = Shape::Unseen;
        let value =
            Tracer::part(pass, at, || seed.deserialize(Tracer { pass, known, seen: &mut seen }))?;
        self.seen.push(seen);
        Ok(Some(value))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.count.saturating_sub(self.seen.len()))
    }
}

/// The one entry of a map.
struct Entry<'t, 'p> {
    pass: &'t RefCell<Pass<'p>>,
    known: Option<&'t Shape>,
    given: bool,
    key: Shape,
    value: Shape,
}

impl MapAccess<'static> for &mut Entry<'_, '_> {
    type Error = Aborted;

    fn next_key_seed<K: DeserializeSeed<'static>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Aborted> {
        if std::mem::replace(&mut self.given, true) {
            return Ok(None);
        }
        let Entry { pass, known, key, .. } = &mut **self;
        let known = match known {
            Some(Shape::Map(known)) => Some(&known.0),
            _ => None,
        };
        Tracer::part(pass, 0, || seed.deserialize(Tracer { pass, known, seen: key })).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'static>>(
        &mut self,
        seed: S,
    ) -> Result<S::Value, Aborted> {
        let Entry { pass, known, value, .. } = &mut **self;
        let known = match known {
            Some(Shape::Map(known)) => Some(&known.1),
            _ => None,
        };
        Tracer::part(pass, 1, || seed.deserialize(Tracer { pass, known, seen: value }))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(usize::from(!self.given))
    }
}

/// A variant of an enum, by name, and its content.
struct Variant<'t, 'p> {
    pass: &'t RefCell<Pass<'p>>,
    variant: &'static str,
    known: Option<&'t Shape>,
    content: &'t mut Shape,
}

impl<'t, 'p> EnumAccess<'static> for Variant<'t, 'p> {
    type Error = Aborted;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'static>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Self), Aborted> {
        let name: StrDeserializer<'_, Aborted> = self.variant.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl VariantAccess<'static> for Variant<'_, '_> {
    type Error = Aborted;

    fn unit_variant(self) -> Result<(), Aborted> {
        *self.content = Shape::Scalar(UNIT_VARIANT, 0);
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'static>>(
        self,
        seed: S,
    ) -> Result<S::Value, Aborted> {
        let Self { pass, known, content, .. } = self;
        let known = match known {
            Some(Shape::Newtype(known)) => Some(&**known),
            _ => None,
        };
        let mut inner = Shape::Unseen;
        let value = seed.deserialize(Tracer { pass, known, seen: &mut inner })?;
        *content = Shape::Newtype(Box::new(inner));
        Ok(value)
    }

    fn tuple_variant<V: Visitor<'static>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Aborted> {
        let Self { pass, known, content, .. } = self;
        Tracer { pass, known, seen: content }.parts(len, visitor, Shape::Tuple)
    }

    fn struct_variant<V: Visitor<'static>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Aborted> {
        let Self { pass, known, content, .. } = self;
        Tracer { pass, known, seen: content }.fields(fields, visitor)
    }
}
