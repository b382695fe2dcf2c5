//! The catalogue: read it, replace it as a whole, or see what replacing it would change.

use crate::ApiState;
use crate::auth::Scope;
use crate::catalogue_text::{self, CatalogueDocument, CatalogueTextError};
use crate::dto::CatalogueDiffDto;
use crate::extract::{QueryOf, body, media_type};
use crate::problem::{Problem, ProblemItem};
use axum::Json;
use axum::extract::{Request, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use chargeplane_actors::views::ApplyOptions;
use chargeplane_domain::catalogue::Catalogue;
use chargeplane_domain::catalogue_check;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// In which form to answer.
#[derive(Debug, Clone, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct FormatQuery {
    /// `yaml` for the document alone; JSON with its version when left out.
    pub format: Option<String>,
}

/// The catalogue with its version.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct CatalogueAnswer {
    /// Counts replacements; 0 when nothing was ever applied.
    pub version: u64,
    /// The document.
    pub catalogue: CatalogueDocument,
}

/// The catalogue in force.
#[utoipa::path(get, path = "/catalogue", tag = "catalogue", params(FormatQuery),
    responses((status = 200, body = CatalogueAnswer)))]
pub(crate) async fn get(
    State(state): State<ApiState>,
    scope: Scope,
    QueryOf(query): QueryOf<FormatQuery>,
) -> Result<Response, Problem> {
    scope.require_all()?;
    let (version, catalogue) = state.handle.catalogue();
    match query.format.as_deref() {
        None | Some("json") => {
            Ok(Json(CatalogueAnswer { version, catalogue: CatalogueDocument::from(&*catalogue) }).into_response())
        }
        Some("yaml") => {
            let text = catalogue_text::to_yaml(&catalogue).map_err(|e| Problem::new("internal", e))?;
            Ok(([(header::CONTENT_TYPE, "application/yaml")], text).into_response())
        }
        Some(other) => Err(Problem::new("bad_query", format!("format {other:.20}: write `json` or `yaml`"))),
    }
}

/// Whether to change anything.
#[derive(Debug, Clone, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ApplyQuery {
    /// True: only tell what would change.
    #[serde(default)]
    pub dry_run: bool,
    /// True: a document without a station is meant, also when that removes all there are.
    #[serde(default)]
    pub allow_empty: bool,
}

/// Replaces the catalogue as a whole, or tells what that would change.
///
/// Refused, also as a dry run: what does not hold together, what removes or moves a charger with an open session
/// (409 `in_use`), and what removes every station without `allow_empty` (422 `catalogue_empty`).
#[utoipa::path(post, path = "/catalogue", tag = "catalogue", params(ApplyQuery),
    request_body(content((CatalogueDocument = "application/yaml"), (CatalogueDocument = "application/json"))),
    responses((status = 200, body = CatalogueDiffDto)))]
pub(crate) async fn apply(
    State(state): State<ApiState>,
    scope: Scope,
    QueryOf(query): QueryOf<ApplyQuery>,
    request: Request,
) -> Result<Json<CatalogueDiffDto>, Problem> {
    scope.require_all()?;
    let kind = media_type(request.headers()).unwrap_or_default();
    let bytes = body(request, &state).await?;
    // A large catalogue takes tenths of a second to read and check: not on a thread that serves others.
    let catalogue = tokio::task::spawn_blocking(move || read(&kind, &bytes))
        .await
        .map_err(|_| Problem::new("internal", "reading the catalogue failed; the node's log says why"))??;
    let options = ApplyOptions { dry_run: query.dry_run, allow_empty: query.allow_empty };
    Ok(Json(state.handle.apply_catalogue_as(catalogue, options).await?.into()))
}

/// Reads and checks a catalogue.
fn read(kind: &str, bytes: &[u8]) -> Result<Catalogue, Problem> {
    let unreadable = |error: CatalogueTextError| Problem::new("catalogue_unreadable", error.to_string());
    let catalogue = match kind {
        "application/json" => catalogue_text::from_json(bytes).map_err(unreadable)?,
        "" | "application/yaml" | "application/x-yaml" | "text/yaml" | "text/x-yaml" => {
            let text = std::str::from_utf8(bytes)
                .map_err(|e| Problem::new("catalogue_unreadable", format!("byte {}: not UTF-8", e.valid_up_to())))?;
            catalogue_text::from_yaml(text).map_err(unreadable)?
        }
        other => {
            let detail = format!("{other:.80} is not known here; send application/yaml or application/json");
            return Err(Problem::new("unsupported_media_type", detail));
        }
    };
    catalogue_check::validate(&catalogue).map_err(|found| {
        let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
        let mut problem = Problem::new("catalogue_invalid", lines.join("\n"));
        problem.problems = found
            .into_iter()
            .map(|p| ProblemItem { path: p.path, what: p.what, write_instead: p.write_instead })
            .collect();
        problem
    })?;
    Ok(catalogue)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_catalogue_is_read_by_its_media_type_and_checked() {
        assert_eq!(read("application/json", b"{}").unwrap(), Catalogue::default());
        assert_eq!(read("", b"tariffs: {}\n").unwrap(), Catalogue::default());
        assert_eq!(read("text/html", b"").unwrap_err().code, "unsupported_media_type");
        assert_eq!(read("", b"\xff").unwrap_err().code, "catalogue_unreadable");
        let problem = read("application/yaml", b"gateways:\n  g1: {station: s1}\n").unwrap_err();
        assert_eq!((problem.code, problem.status), ("catalogue_invalid", 422));
        assert_eq!(problem.problems[0].path, "gateways.main/g1.station");
        let problem = read("application/yaml", b"gateways:\n  g1: {statoin: s1}\n").unwrap_err();
        assert_eq!(problem.code, "catalogue_unreadable");
        assert!(problem.detail.starts_with("line 2"), "{}", problem.detail);
    }
}
