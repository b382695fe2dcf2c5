//! The OpenAPI document: what utoipa gathers from the handlers, plus what every route has in common.

use crate::described;
use crate::problem::{PROBLEM_JSON, Problem};
use utoipa::OpenApi as _;
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{Components, ContentBuilder, OpenApi, Ref, RefOr, ResponseBuilder};

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Chargeplane",
        description = "Control plane for EV charging. Ids in paths are percent-encoded `tenant/local`; amounts are \
                       decimal strings, energy integer Wh, power integer W, times RFC 3339 in UTC. Requests that \
                       move money or send commands need an `Idempotency-Key`."
    ),
    components(schemas(Problem)),
    security(("bearer" = []))
)]
struct Base;

/// The document for every route of this crate.
pub fn document() -> OpenApi {
    let mut document = Base::openapi();
    let (health, pages, api) = described();
    for part in [health, pages, api] {
        document.merge(part.into_openapi());
    }
    let components = document.components.get_or_insert_with(Components::new);
    components.add_security_scheme("bearer", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    for item in document.paths.paths.values_mut() {
        let operations =
            [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch, &mut item.head];
        operations.into_iter().flatten().for_each(add_problem);
    }
    document
}

/// Every operation may answer with a problem document.
fn add_problem(operation: &mut Operation) {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
    let response = ResponseBuilder::new()
        .description("A problem document (RFC 9457); switch on its `code`")
        .content(PROBLEM_JSON, content)
        .build();
    operation.responses.responses.insert("default".to_owned(), RefOr::T(response));
}
