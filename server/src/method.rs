use std::time::Duration;

use callboard_common::Shape;
use serde::Serialize;

use crate::admission::Concurrency;

/// What is said of a method to those who call it: its name, what it does, what it takes and what it returns.
///
/// Parameters that are described are checked before the handler runs; in debug builds so is the result. A method that is
/// only named takes what its handler's type takes.
///
/// ```
/// use callboard_server::{Method, Type};
/// let add = Method::new("add")
///     .describe("The sum of two integers")
///     .param("num1", Type::Integer)
///     .param("num2", Type::Integer)
///     .returns(Type::Integer);
/// assert_eq!(add.name(), "add");
/// assert_eq!(add.parameters().len(), 2);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Method {
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    description: String,
    parameters: Vec<Parameter>,
    returns: Type,
    #[serde(skip)]
    limits: MethodLimits,
}

/// How much of a method may run and wait, and how its calls end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MethodLimits {
    pub(crate) concurrency: Concurrency,
    /// `None`: as many as the router says.
    pub(crate) queue: Option<usize>,
    pub(crate) must_finish: bool,
}

/// One parameter of a [`Method`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Parameter {
    /// Its key in the object of parameters.
    pub name: String,
    /// What its value must be.
    #[serde(rename = "type")]
    pub value: Type,
    /// Whether it may be left out; one that may be left out may also be null.
    pub required: bool,
}

/// The sorts of value that a description can ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Type {
    /// Every value, null among them.
    #[default]
    Any,
    /// True or false.
    Bool,
    /// A number without fraction or exponent.
    Integer,
    /// Any number, integers among them.
    Number,
    /// A string.
    String,
    /// A list.
    Array,
    /// Names with values.
    Object,
}

impl Method {
    /// A method that is only named.
    pub fn new(name: impl Into<String>) -> Self {
        let limits = MethodLimits { concurrency: Concurrency::Unlimited, queue: None, must_finish: false };
        Self { name: name.into(), description: String::new(), parameters: Vec::new(), returns: Type::Any, limits }
    }

    /// Says what the method does, for a person. Default: nothing.
    #[must_use]
    pub fn describe(mut self, description: impl Into<String>) -> Self {
        self.description = description.into();
        self
    }

    /// Adds a parameter that every call must have.
    ///
    /// # Panics
    /// There is one of this name, or there are 64 already.
    #[must_use]
    #[track_caller]
    pub fn param(self, name: impl Into<String>, value: Type) -> Self {
        self.with_parameter(Parameter { name: name.into(), value, required: true })
    }

    /// Adds a parameter that a call may leave out, or give as null.
    ///
    /// # Panics
    /// There is one of this name, or there are 64 already.
    #[must_use]
    #[track_caller]
    pub fn optional(self, name: impl Into<String>, value: Type) -> Self {
        self.with_parameter(Parameter { name: name.into(), value, required: false })
    }

    /// Says what the method returns. Default: [`Type::Any`].
    #[must_use]
    pub fn returns(mut self, value: Type) -> Self {
        self.returns = value;
        self
    }

    /// How many calls of it run at once, where it is async or blocking. Default: all that may run of all methods together
    /// ([`Router::concurrency`](crate::Router::concurrency), [`Router::blocking_threads`](crate::Router::blocking_threads)),
    /// and half of them where it is not the only such method: then one that is slow leaves places to the others. Calls past
    /// it wait for their turn.
    ///
    /// # Panics
    /// `calls` is 0.
    #[must_use]
    #[track_caller]
    pub fn concurrency(mut self, calls: usize) -> Self {
        assert!(calls > 0, "method {:?} needs a place at least", self.name);
        self.limits.concurrency = Concurrency::Fixed(calls);
        self
    }

    /// The same found by itself, between `least` and `most`: it grows by one with each round of calls that end within
    /// `target`, and shrinks by a tenth with each round in which one takes longer (additive increase, multiplicative
    /// decrease, as in TCP; Chiu and Jain, 1989). `target` is what a call may take at most in your eyes, without the time
    /// that it waits for its turn: twice what one takes alone is a fair choice. It begins at `least`. Calls that fail in time do not
    /// count: one that fails at once says nothing of how many more may run.
    ///
    /// ```
    /// use std::time::Duration;
    /// use callboard_server::Method;
    /// let search = Method::new("search").adaptive_concurrency(4, 256, Duration::from_millis(50)).queue(100);
    /// ```
    ///
    /// # Panics
    /// `least` is 0, or `most` is less.
    #[must_use]
    #[track_caller]
    pub fn adaptive_concurrency(mut self, least: usize, most: usize, target: Duration) -> Self {
        assert!(0 < least && least <= most, "method {:?}: {least} to {most} is no range of places", self.name);
        self.limits.concurrency = Concurrency::Adaptive { least, most, target };
        self
    }

    /// How many calls of it may wait for their turn. Default 1,024, and no more than half of
    /// [`Router::queue`](crate::Router::queue) where it is not the only such method; with 0 none waits. Past it calls are refused with
    /// OVERLOADED, executed no, which names the limit; whose, [`Router::queue`](crate::Router::queue) says. More outlast longer bursts, and keep callers waiting for longer. How
    /// long they may wait is [`Router::queue_age`](crate::Router::queue_age).
    #[must_use]
    pub const fn queue(mut self, calls: usize) -> Self {
        self.limits.queue = Some(calls);
        self
    }

    /// Lets a call of it that has begun go on to its end when its caller has gone. Default: it is dropped, at the point at
    /// which an async method waits. Either way a call that still waits for its turn is dropped, and a blocking one that
    /// runs goes on.
    ///
    /// ```
    /// use callboard_server::{Method, Router};
    /// // What it has begun must not be left half done.
    /// let transfer = Method::new("transfer").must_finish();
    /// let router = Router::new().method_async(transfer, |sum: i64| async move {
    ///     tokio::task::yield_now().await;
    ///     Ok(sum)
    /// });
    /// ```
    #[must_use]
    pub const fn must_finish(mut self) -> Self {
        self.limits.must_finish = true;
        self
    }

    /// What it is called by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it does, for a person; empty where nobody said.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// The described parameters, in the order in which they were described.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    pub(crate) const fn limits(&self) -> MethodLimits {
        self.limits
    }

    /// What it returns.
    pub const fn return_type(&self) -> Type {
        self.returns
    }

    #[track_caller]
    fn with_parameter(mut self, parameter: Parameter) -> Self {
        let taken = self.parameters.iter().any(|known| known.name == parameter.name);
        assert!(!taken, "method {:?} has parameter {:?} twice", self.name, parameter.name);
        assert!(self.parameters.len() < MAX_PARAMETERS, "method {:?} has over {MAX_PARAMETERS} parameters", self.name);
        self.parameters.push(parameter);
        self
    }
}

impl From<&str> for Method {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl From<String> for Method {
    fn from(name: String) -> Self {
        Self::new(name)
    }
}

impl Type {
    /// The name that descriptions and errors use, for example `integer`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Bool => "bool",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::String => "string",
            Self::Array => "array",
            Self::Object => "object",
        }
    }

    /// Whether a value of this shape will do.
    ///
    /// ```
    /// use callboard_common::Shape;
    /// use callboard_server::Type;
    /// assert!(Type::Number.accepts(Shape::Integer));
    /// assert!(!Type::Integer.accepts(Shape::Number));
    /// ```
    pub const fn accepts(self, shape: Shape) -> bool {
        match self {
            Self::Any => true,
            Self::Bool => matches!(shape, Shape::Bool),
            Self::Integer => matches!(shape, Shape::Integer),
            Self::Number => matches!(shape, Shape::Integer | Shape::Number),
            Self::String => matches!(shape, Shape::String),
            Self::Array => matches!(shape, Shape::Array),
            Self::Object => matches!(shape, Shape::Object),
        }
    }
}

impl std::fmt::Display for Type {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// One bit each in the set of those that a call has been seen to hold.
const MAX_PARAMETERS: usize = u64::BITS as usize;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_is_published_as_json() {
        let method = Method::new("find").describe("Finds").param("text", Type::String).optional("limit", Type::Integer);
        let text = serde_json::to_string(&method.returns(Type::Array)).unwrap();
        let parameters = concat!(
            r#"[{"name":"text","type":"string","required":true},"#,
            r#"{"name":"limit","type":"integer","required":false}]"#
        );
        let expected = r#"{"name":"find","description":"Finds","parameters":PARAMETERS,"returns":"array"}"#;
        assert_eq!(text, expected.replace("PARAMETERS", parameters));
        let text = serde_json::to_string(&Method::from("bare")).unwrap();
        assert_eq!(text, r#"{"name":"bare","parameters":[],"returns":"any"}"#);
    }

    #[test]
    fn each_type_accepts_its_own_shapes() {
        let shapes =
            [Shape::Null, Shape::Bool, Shape::Integer, Shape::Number, Shape::String, Shape::Array, Shape::Object];
        let rows = [
            (Type::Any, [true; 7]),
            (Type::Bool, [false, true, false, false, false, false, false]),
            (Type::Integer, [false, false, true, false, false, false, false]),
            (Type::Number, [false, false, true, true, false, false, false]),
            (Type::String, [false, false, false, false, true, false, false]),
            (Type::Array, [false, false, false, false, false, true, false]),
            (Type::Object, [false, false, false, false, false, false, true]),
        ];
        for (value, accepted) in rows {
            assert_eq!(shapes.map(|shape| value.accepts(shape)), accepted, "{value}");
        }
    }

    #[test]
    #[should_panic(expected = "method \"add\" has parameter \"num1\" twice")]
    fn a_parameter_twice_is_a_mistake() {
        let _ = Method::new("add").param("num1", Type::Integer).optional("num1", Type::Any);
    }

    #[test]
    #[should_panic(expected = "has over 64 parameters")]
    fn parameters_are_bounded() {
        let _ = (0..65).fold(Method::new("many"), |method, n| method.param(n.to_string(), Type::Any));
    }
}
