//! What goes in and out of a route, for the OpenAPI document.

use slipway_api::Page;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::{IntoParams, PartialSchema, ToSchema};

/// A schema by its name, with those it refers to.
pub(crate) type Named = Vec<(String, RefOr<Schema>)>;

/// The shape of a body.
#[derive(Clone, Copy)]
pub(crate) enum Shape {
    /// None.
    Nothing,
    /// JSON of a type: its name, and what gives its schemas.
    Json(fn() -> String, fn() -> Named),
    /// Bytes of a media type.
    Bytes(&'static str),
    /// Text of a media type.
    Text(&'static str),
}

/// JSON of this type.
pub(crate) fn json<T: ToSchema>() -> Shape {
    Shape::Json(schema_name::<T>, || {
        let mut all = Named::new();
        T::schemas(&mut all);
        all.push((schema_name::<T>(), T::schema()));
        all
    })
}

/// JSON of a page of this type, whose own schema utoipa does not name among those that the page refers to.
pub(crate) fn page<T: ToSchema>() -> Shape {
    Shape::Json(schema_name::<Page<T>>, || {
        let mut all = Named::new();
        T::schemas(&mut all);
        all.push((schema_name::<T>(), T::schema()));
        all.push((schema_name::<Page<T>>(), Page::<T>::schema()));
        all
    })
}

/// A generic type's name has its parameters' names behind it: a page of images is `Page_Image`.
fn schema_name<T: ToSchema>() -> String {
    let full = std::any::type_name::<T>();
    let last = |text: &str| text.rsplit("::").next().unwrap_or(text).trim_end_matches('>').to_owned();
    match full.split_once('<') {
        Some((_, inner)) => format!("{}_{}", T::name(), last(inner)),
        None => T::name().into_owned(),
    }
}

/// A parameter in the query: name, what it says, its JSON type.
pub(crate) type Param = (&'static str, &'static str, &'static str);

/// Parameters of a query that is read into a type.
pub(crate) type Params = fn() -> Vec<utoipa::openapi::path::Parameter>;

/// The parameters of this type.
pub(crate) fn params<T: IntoParams>() -> Params {
    || T::into_params(|| Some(utoipa::openapi::path::ParameterIn::Query))
}
