//! The passes: a type is deserialized from dummy values until all of it was seen.
//!
//! A pass sees one variant of each enum, so what the passes before have seen says which variant is
//! next. Where a type contains itself, the inner one is ended as fast as possible: options are
//! `None`, sequences empty, and enums take a variant that ends. A visitor that refuses its dummy is
//! gone, so the next pass has another dummy for that place.
//!
//! Whatever goes wrong, the worst outcome is that the type has no shape.

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
use super::{STREAM, Shape, UNIT_VARIANT};

/// Values of all passes together. Bounds the time, mostly to some milliseconds.
const MAX_VALUES: usize = 1 << 18;
/// Values of one pass: what a large type has.
const MAX_VALUES_OF_A_PASS: usize = 1 << 12;
/// How deep a type may be nested, its recursion not counted.
const MAX_DEPTH: usize = 48;
/// How often other dummies are tried in all places, when the first ones were refused together.
const MAX_ROUNDS: usize = 4;

/// The shape of `T`, if it can be traced whole.
pub(super) fn trace<T: Serialize + DeserializeOwned>() -> Option<Shape> {
    // A user's code may panic, on a dummy, say.
    catch_unwind(AssertUnwindSafe(trace_whole::<T>)).ok().flatten()
}

fn trace_whole<T: Serialize + DeserializeOwned>() -> Option<Shape> {
    let mut choices = Choices::default();
    let mut shape = Shape::Hole;
    while !shape.is_whole() {
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
    // What is empty or zero may be written in another way. A type that refuses it has no such value.
    match pass::<T>(&mut choices, &shape, true) {
        Outcome::Seen(seen) => shape.merge(seen).ok()?,
        Outcome::Again | Outcome::Refused => {}
        Outcome::Unknown => return None,
    }
    Some(shape)
}

enum Outcome {
    Seen(Shape),
    /// With what this pass has learned.
    Again,
    /// The type took the dummies one by one, and refused what was made of them.
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
        end: None,
    });
    let mut seen = Shape::Hole;
    let value = T::deserialize(Tracer { pass: &pass, known: Some(known), seen: &mut seen });
    let pass = pass.into_inner();
    match (pass.end, value) {
        (Some(End::Unknown), _) => Outcome::Unknown,
        (Some(End::Again), _) => Outcome::Again,
        (None, Err(Stop)) => Outcome::Refused,
        (None, Ok(value)) => match record(&value) {
            Some(written) if seen.matches(&written, &pass.dummies) => Outcome::Seen(seen),
            _ => Outcome::Unknown,
        },
    }
}

/// What one pass leaves for the next ones.
#[derive(Default)]
struct Choices {
    /// How many dummies were refused in a place.
    refused: HashMap<Vec<usize>, usize>,
    /// How often all dummies together were refused.
    round: usize,
    /// The variants with which recursions end.
    exits: Vec<(Container, usize)>,
    /// In all passes.
    values: usize,
}

/// A type that may contain itself, as far as it can be told.
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
enum End {
    Again,
    Unknown,
}

struct Pass<'p> {
    choices: &'p mut Choices,
    /// Values are empty or zero.
    empty: bool,
    /// The place in the type.
    path: Vec<usize>,
    /// Around the place, with their levels.
    containers: Vec<(Container, usize)>,
    /// Of shapes around the place.
    levels: usize,
    /// How many containers are around the first that contains itself.
    recursion: Option<usize>,
    /// The enums around the place since then, the numbers of their variants, and how many there are.
    exits: Vec<(Container, usize, usize)>,
    /// All dummies that were taken.
    dummies: Vec<(&'static str, u64)>,
    values: usize,
    end: Option<End>,
}

impl Pass<'_> {
    fn is_short(&self) -> bool {
        self.empty || self.recursion.is_some()
    }

    fn unknown(&mut self) -> Stop {
        self.end = Some(End::Unknown);
        Stop
    }

    fn again(&mut self) -> Stop {
        self.end.get_or_insert(End::Again);
        Stop
    }

    fn count(&mut self) -> Result<(), Stop> {
        self.values += 1;
        self.choices.values += 1;
        let too_many = self.values > MAX_VALUES_OF_A_PASS || self.choices.values > MAX_VALUES;
        if too_many || self.path.len() > MAX_DEPTH { Err(self.unknown()) } else { Ok(()) }
    }

    /// The next dummy for this place, if there is one.
    fn sample<S: Sample>(&self) -> Option<S> {
        let mut samples = S::samples(self.dummies.len());
        let refused = self.choices.refused.get(&self.path).copied().unwrap_or(0);
        if refused >= samples.len() {
            return None;
        }
        let at = refused.saturating_add(self.choices.round) % samples.len();
        Some(samples.swap_remove(at))
    }

    /// Enters a container. If it is in itself, how many levels up it is found again.
    fn enter(&mut self, container: &Container) -> Result<Option<usize>, Stop> {
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

    /// What was chosen does not end the recursion: the innermost enum takes its next variant.
    fn find_exit(&mut self) -> Stop {
        let next = self.exits.iter().rev().find(|(_, variant, variants)| variant + 1 < *variants);
        let Some((container, variant, _)) = next.cloned() else { return self.unknown() };
        let exits = &mut self.choices.exits;
        exits.retain(|(known, _)| *known != container);
        exits.push((container, variant + 1));
        self.again()
    }

    /// Which variant an enum takes.
    fn variant(&self, container: &Container, known: Option<&Shape>) -> usize {
        if self.recursion.is_some() {
            let exits = &self.choices.exits;
            return exits.iter().find(|(known, _)| known == container).map_or(0, |exit| exit.1);
        }
        match known {
            Some(Shape::Enum(variants)) if !self.empty => {
                variants.iter().position(|(_, content)| !content.is_whole()).unwrap_or(0)
            }
            _ => 0,
        }
    }
}

/// serde's error. Why is in the [`Pass`].
#[derive(Debug)]
struct Stop;

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a dummy value was refused")
    }
}

impl std::error::Error for Stop {}

impl Error for Stop {
    fn custom<M: fmt::Display>(_: M) -> Self {
        Self
    }
}

/// Gives a dummy for one place, and notes what was asked for.
struct Tracer<'t, 'p> {
    pass: &'t RefCell<Pass<'p>>,
    /// What earlier passes saw here.
    known: Option<&'t Shape>,
    seen: &'t mut Shape,
}

impl<'t, 'p> Tracer<'t, 'p> {
    /// A value without parts.
    fn leaf<S: Sample, R>(
        self,
        kind: &'static str,
        visit: impl FnOnce(S) -> Result<R, Stop>,
    ) -> Result<R, Stop> {
        let mut pass = self.pass.borrow_mut();
        pass.count()?;
        let sample = if pass.empty { Some(S::empty()) } else { pass.sample() };
        let Some(sample) = sample else { return Err(pass.unknown()) };
        let dummy = sample.digest();
        pass.dummies.push((kind, dummy));
        *self.seen = Shape::Leaf(kind, dummy);
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
        run: impl FnOnce() -> Result<R, Stop>,
    ) -> Result<R, Stop> {
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
        run: impl FnOnce(Tracer<'_, 'p>) -> Result<R, Stop>,
    ) -> Result<R, Stop> {
        let Self { pass, known, seen } = self;
        let up = pass.borrow_mut().enter(&container)?;
        let mut inner = Shape::Hole;
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
    ) -> Result<V::Value, Stop> {
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
    ) -> Result<V::Value, Stop> {
        self.parts(fields.len(), visitor, |seen| {
            Shape::Struct(fields.iter().copied().zip(seen).collect())
        })
    }

    fn give_up<R>(self) -> Result<R, Stop> {
        Err(self.pass.borrow_mut().unknown())
    }
}

macro_rules! leaves {
    ($($method:ident $visit:ident $kind:literal $type:ty;)*) => {
        $(fn $method<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Stop> {
            self.leaf($kind, |sample: $type| visitor.$visit(sample))
        })*
    };
}

impl<'p> Deserializer<'static> for Tracer<'_, 'p> {
    type Error = Stop;

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

    fn deserialize_unit<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Stop> {
        self.leaf("unit", |()| visitor.visit_unit())
    }

    fn deserialize_unit_struct<V: Visitor<'static>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Stop> {
        self.leaf("unit struct", |()| visitor.visit_unit())
    }

    fn deserialize_option<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Stop> {
        let Self { pass, known, seen } = self;
        if pass.borrow().is_short() {
            *seen = Shape::Option(Box::new(Shape::Hole));
            return visitor.visit_none();
        }
        let known = match known {
            Some(Shape::Option(known)) => Some(&**known),
            _ => None,
        };
        let mut inner = Shape::Hole;
        let value =
            Self::part(pass, 0, || visitor.visit_some(Tracer { pass, known, seen: &mut inner }))?;
        *seen = Shape::Option(Box::new(inner));
        Ok(value)
    }

    fn deserialize_newtype_struct<V: Visitor<'static>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Stop> {
        if name == rmp_serde::MSGPACK_EXT_STRUCT_NAME {
            return self.give_up();
        }
        if name == STREAM {
            let Self { pass, known, seen } = self;
            let known = match known {
                Some(Shape::Stream(known)) => Some(&**known),
                _ => None,
            };
            let mut item = Shape::Hole;
            let value = Self::part(pass, 0, || {
                visitor.visit_some(Tracer { pass, known, seen: &mut item })
            })?;
            *seen = Shape::Stream(Box::new(item));
            return Ok(value);
        }
        self.container(Container::of::<V>(name, &[]), |inner| visitor.visit_newtype_struct(inner))
    }

    fn deserialize_seq<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Stop> {
        let Self { pass, known, seen } = self;
        let count = usize::from(!pass.borrow().is_short());
        pass.borrow_mut().count()?;
        let mut elements = Elements { pass, known, count, seen: Vec::new() };
        let value = visitor.visit_seq(&mut elements)?;
        *seen = Shape::Seq(Box::new(elements.seen.pop().unwrap_or(Shape::Hole)));
        Ok(value)
    }

    fn deserialize_map<V: Visitor<'static>>(self, visitor: V) -> Result<V::Value, Stop> {
        let Self { pass, known, seen } = self;
        pass.borrow_mut().count()?;
        let given = pass.borrow().is_short();
        let mut entry = Entry { pass, known, given, key: Shape::Hole, value: Shape::Hole };
        let value = visitor.visit_map(&mut entry)?;
        *seen = Shape::Map(Box::new((entry.key, entry.value)));
        Ok(value)
    }

    fn deserialize_tuple<V: Visitor<'static>>(
        self,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Stop> {
        self.parts(len, visitor, Shape::Tuple)
    }

    fn deserialize_tuple_struct<V: Visitor<'static>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Stop> {
        self.container(Container::of::<V>(name, &[]), |inner| {
            inner.parts(len, visitor, Shape::Tuple)
        })
    }

    fn deserialize_struct<V: Visitor<'static>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        self.container(Container::of::<V>(name, fields), |inner| inner.fields(fields, visitor))
    }

    fn deserialize_enum<V: Visitor<'static>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
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
            let mut content = Shape::Hole;
            let value = Self::part(pass, at, || {
                visitor.visit_enum(Variant { pass, variant, known, content: &mut content })
            })?;
            if recursion {
                pass.borrow_mut().exits.pop();
            }
            let mut seen_variants: Vec<_> =
                variants.iter().map(|variant| (*variant, Shape::Hole)).collect();
            if let Some(seen) = seen_variants.get_mut(at) {
                seen.1 = content;
            }
            *seen = Shape::Enum(seen_variants);
            Ok(value)
        })
    }

    /// A type that looks at what comes before it decides what it is.
    fn deserialize_any<V: Visitor<'static>>(self, _: V) -> Result<V::Value, Stop> {
        self.give_up()
    }

    /// A key of a map that is a struct in disguise.
    fn deserialize_identifier<V: Visitor<'static>>(self, _: V) -> Result<V::Value, Stop> {
        self.give_up()
    }

    fn deserialize_ignored_any<V: Visitor<'static>>(self, _: V) -> Result<V::Value, Stop> {
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
    type Error = Stop;

    fn next_element_seed<S: DeserializeSeed<'static>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Stop> {
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
        let mut seen = Shape::Hole;
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
    type Error = Stop;

    fn next_key_seed<K: DeserializeSeed<'static>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Stop> {
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

    fn next_value_seed<S: DeserializeSeed<'static>>(&mut self, seed: S) -> Result<S::Value, Stop> {
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
    type Error = Stop;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'static>>(self, seed: S) -> Result<(S::Value, Self), Stop> {
        let name: StrDeserializer<'_, Stop> = self.variant.into_deserializer();
        Ok((seed.deserialize(name)?, self))
    }
}

impl VariantAccess<'static> for Variant<'_, '_> {
    type Error = Stop;

    fn unit_variant(self) -> Result<(), Stop> {
        *self.content = Shape::Leaf(UNIT_VARIANT, 0);
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'static>>(self, seed: S) -> Result<S::Value, Stop> {
        let Self { pass, known, content, .. } = self;
        let known = match known {
            Some(Shape::Newtype(known)) => Some(&**known),
            _ => None,
        };
        let mut inner = Shape::Hole;
        let value = seed.deserialize(Tracer { pass, known, seen: &mut inner })?;
        *content = Shape::Newtype(Box::new(inner));
        Ok(value)
    }

    fn tuple_variant<V: Visitor<'static>>(self, len: usize, visitor: V) -> Result<V::Value, Stop> {
        let Self { pass, known, content, .. } = self;
        Tracer { pass, known, seen: content }.parts(len, visitor, Shape::Tuple)
    }

    fn struct_variant<V: Visitor<'static>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Stop> {
        let Self { pass, known, content, .. } = self;
        Tracer { pass, known, seen: content }.fields(fields, visitor)
    }
}
