//! Money from one account to another.

use super::accounts::unexpected;
use crate::ApiState;
use crate::auth::Scope;
use crate::dto::{TransferDto, TransferRequest, TransferredDto, amount, currency};
use crate::extract::{IdPath, IdempotencyKey, JsonBody, id};
use crate::problem::Problem;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use chargeplane_domain::account::{AccountAnswer, TransferId};
use chargeplane_domain::ids::AccountId;

/// Sends money to another account of the same tenant: what is neither spent nor held, and no credit.
///
/// 201: it has left and is under way, and arrives once, or comes back with its own entry when the other account
/// refuses it. `GET /transfers/{transfer}` tells.
#[utoipa::path(post, path = "/accounts/{account}/transfers", tag = "accounts",
    params(("account" = String, Path, description = "percent-encoded id"),
           ("Idempotency-Key" = String, Header, description = "1 to 128 visible ASCII characters; a key belongs to the account that the request is about")),
    request_body = TransferRequest, responses((status = 201, body = TransferredDto)))]
pub(crate) async fn send(
    State(state): State<ApiState>,
    scope: Scope,
    IdPath(account): IdPath<AccountId>,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody(request): JsonBody<TransferRequest>,
) -> Result<(StatusCode, Json<TransferredDto>), Problem> {
    let to: AccountId = id(&request.to, &scope)?;
    let (amount, currency) = (amount("amount", &request.amount)?, currency(request.currency.as_deref())?);
    match state.handle.transfer(account.clone(), to, key, amount, currency).await? {
        AccountAnswer::TransferredOut { transfer, balance } => {
            let (transfer, account, balance) = (transfer.to_string(), account.to_string(), balance.to_string());
            Ok((StatusCode::CREATED, Json(TransferredDto { transfer, account, balance })))
        }
        other => Err(unexpected(&other)),
    }
}

/// A transfer: under way, arrived, or returned. The last 1,000 that ended are remembered by the account they left.
#[utoipa::path(get, path = "/transfers/{transfer}", tag = "accounts",
    params(("transfer" = String, Path, description = "percent-encoded id, such as main%2Fa1.t7")),
    responses((status = 200, body = TransferDto)))]
pub(crate) async fn get(
    State(state): State<ApiState>,
    scope: Scope,
    Path(text): Path<String>,
) -> Result<Json<TransferDto>, Problem> {
    let id: TransferId = text.parse().map_err(|e| Problem::new("bad_id", format!("{e}")))?;
    scope.require(id.from.tenant())?;
    let transfer = state.handle.transfer_state(&id).await?;
    Ok(Json(TransferDto::new(&id, &transfer)))
}
