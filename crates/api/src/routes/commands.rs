//! Commands to chargers, and how they ended.

use crate::ApiState;
use crate::auth::Scope;
use crate::dto::{CommandDto, CommandIdDto, CommandRequest, Page};
use crate::extract::{IdPath, IdempotencyKey, JsonBody, PageQuery, QueryOf, page_of};
use crate::problem::Problem;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chargeplane_domain::command::Action;
use chargeplane_domain::ids::{ChargerId, CommandId, ConnectorNo};

/// Commands of all chargers, by id.
#[utoipa::path(get, path = "/commands", tag = "commands", params(PageQuery),
    responses((status = 200, body = Page<CommandDto>)))]
pub(crate) async fn list(
    State(state): State<ApiState>,
    scope: Scope,
    QueryOf(query): QueryOf<PageQuery>,
) -> Result<Json<Page<CommandDto>>, Problem> {
    let limit = query.limit()?;
    let views = state.handle.all_commands(page_of(query.after.as_deref(), limit, &scope)?).await?;
    let items = views.into_iter().map(CommandDto::from).collect();
    Ok(Json(Page::part(items, limit, |c: &CommandDto| c.id.clone())))
}

/// Commands of a charger: those under way and the last that ended.
#[utoipa::path(get, path = "/chargers/{charger}/commands", tag = "commands",
    params(("charger" = String, Path, description = "percent-encoded id")),
    responses((status = 200, body = Page<CommandDto>)))]
pub(crate) async fn list_of_charger(
    State(state): State<ApiState>,
    IdPath(charger): IdPath<ChargerId>,
) -> Result<Json<Page<CommandDto>>, Problem> {
    let views = state.handle.commands(&charger).await?;
    Ok(Json(Page::whole(views.into_iter().map(CommandDto::from).collect())))
}

/// A command with its outcome.
#[utoipa::path(get, path = "/commands/{command}", tag = "commands",
    params(("command" = String, Path, description = "percent-encoded id")),
    responses((status = 200, body = CommandDto)))]
pub(crate) async fn get(
    State(state): State<ApiState>,
    IdPath(command): IdPath<CommandId>,
) -> Result<Json<CommandDto>, Problem> {
    Ok(Json(state.handle.command(&command).await?.into()))
}

/// Tells a charger to do something. Accepted is durable; the outcome comes with the command.
#[utoipa::path(post, path = "/chargers/{charger}/commands", tag = "commands",
    params(("charger" = String, Path, description = "percent-encoded id"),
           ("Idempotency-Key" = String, Header, description = "1 to 128 visible ASCII characters; a key belongs to the charger that the request is about")),
    request_body = CommandRequest, responses((status = 202, body = CommandIdDto)))]
pub(crate) async fn request(
    State(state): State<ApiState>,
    IdPath(charger): IdPath<ChargerId>,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody(request): JsonBody<CommandRequest>,
) -> Result<(StatusCode, Json<CommandIdDto>), Problem> {
    let action = match request {
        CommandRequest::Reset => Action::Reset,
        CommandRequest::Unlock { connector } => Action::Unlock { connector: ConnectorNo(connector) },
        CommandRequest::SetAvailability { available } => Action::SetAvailability { available },
    };
    let command = state.handle.request_command(&charger, action, key).await?;
    Ok((StatusCode::ACCEPTED, Json(CommandIdDto { command: command.to_string() })))
}
