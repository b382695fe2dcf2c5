//! What an operator does to an account: refund, correct, freeze, release a hold, close.

use super::accounts::unexpected;
use crate::ApiState;
use crate::auth::Scope;
use crate::dto::{
    AccountStatusDto, AdjustRequest, FreezeRequest, ReleaseRequest, ReleasedDto, TopUpRequest, ToppedUpDto, amount,
    currency,
};
use crate::extract::{IdPath, IdempotencyKey, JsonBody, id, now};
use crate::problem::Problem;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chargeplane_domain::account::{AccountAnswer, AccountCommand};
use chargeplane_domain::ids::{AccountId, SessionId};

/// Gives money back to where it came from: at most what was paid in and is neither spent nor held.
#[utoipa::path(post, path = "/accounts/{account}/refunds", tag = "accounts",
    params(("account" = String, Path, description = "percent-encoded id"),
           ("Idempotency-Key" = String, Header, description = "1 to 128 visible ASCII characters; a key belongs to the account that the request is about")),
    request_body = TopUpRequest, responses((status = 201, body = ToppedUpDto)))]
pub(crate) async fn refund(
    State(state): State<ApiState>,
    IdPath(account): IdPath<AccountId>,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody(request): JsonBody<TopUpRequest>,
) -> Result<(StatusCode, Json<ToppedUpDto>), Problem> {
    let (amount, currency) = (amount("amount", &request.amount)?, currency(request.currency.as_deref())?);
    let command = AccountCommand::Refund { key, amount, currency, at: now() };
    balance_after(&state, account, command).await
}

/// Corrects a balance by an operator's word, up or down, with the reason.
#[utoipa::path(post, path = "/accounts/{account}/adjustments", tag = "accounts",
    params(("account" = String, Path, description = "percent-encoded id"),
           ("Idempotency-Key" = String, Header, description = "1 to 128 visible ASCII characters; a key belongs to the account that the request is about")),
    request_body = AdjustRequest, responses((status = 201, body = ToppedUpDto)))]
pub(crate) async fn adjust(
    State(state): State<ApiState>,
    IdPath(account): IdPath<AccountId>,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody(request): JsonBody<AdjustRequest>,
) -> Result<(StatusCode, Json<ToppedUpDto>), Problem> {
    let (amount, currency) = (amount("amount", &request.amount)?, currency(request.currency.as_deref())?);
    let command = AccountCommand::Adjust { key, amount, currency, reason: request.reason, at: now() };
    balance_after(&state, account, command).await
}

async fn balance_after(
    state: &ApiState,
    account: AccountId,
    command: AccountCommand,
) -> Result<(StatusCode, Json<ToppedUpDto>), Problem> {
    match state.handle.account_command(account.clone(), command).await? {
        AccountAnswer::Refunded { balance } | AccountAnswer::Adjusted { balance } => {
            let answer = ToppedUpDto { account: account.to_string(), balance: balance.to_string() };
            Ok((StatusCode::CREATED, Json(answer)))
        }
        other => Err(unexpected(&other)),
    }
}

/// Freezes an account: no new sessions and no money out. Sessions under way go on and settle; money may come in.
#[utoipa::path(post, path = "/accounts/{account}/freeze", tag = "accounts",
    params(("account" = String, Path, description = "percent-encoded id"),
           ("Idempotency-Key" = String, Header, description = "1 to 128 visible ASCII characters; a key belongs to the account that the request is about")),
    request_body = FreezeRequest, responses((status = 200, body = AccountStatusDto)))]
pub(crate) async fn freeze(
    State(state): State<ApiState>,
    IdPath(account): IdPath<AccountId>,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody(request): JsonBody<FreezeRequest>,
) -> Result<Json<AccountStatusDto>, Problem> {
    status_after(&state, account, AccountCommand::Freeze { key, reason: request.reason, at: now() }).await
}

/// Ends that an account is frozen.
#[utoipa::path(post, path = "/accounts/{account}/unfreeze", tag = "accounts",
    params(("account" = String, Path, description = "percent-encoded id"),
           ("Idempotency-Key" = String, Header, description = "1 to 128 visible ASCII characters; a key belongs to the account that the request is about")),
    responses((status = 200, body = AccountStatusDto)))]
pub(crate) async fn unfreeze(
    State(state): State<ApiState>,
    IdPath(account): IdPath<AccountId>,
    IdempotencyKey(key): IdempotencyKey,
) -> Result<Json<AccountStatusDto>, Problem> {
    status_after(&state, account, AccountCommand::Unfreeze { key, at: now() }).await
}

/// Closes an account for good: its balance is zero, and no session holds money or may give some back.
#[utoipa::path(post, path = "/accounts/{account}/close", tag = "accounts",
    params(("account" = String, Path, description = "percent-encoded id"),
           ("Idempotency-Key" = String, Header, description = "1 to 128 visible ASCII characters; a key belongs to the account that the request is about")),
    responses((status = 200, body = AccountStatusDto)))]
pub(crate) async fn close(
    State(state): State<ApiState>,
    IdPath(account): IdPath<AccountId>,
    IdempotencyKey(key): IdempotencyKey,
) -> Result<Json<AccountStatusDto>, Problem> {
    status_after(&state, account, AccountCommand::Close { key, at: now() }).await
}

async fn status_after(
    state: &ApiState,
    account: AccountId,
    command: AccountCommand,
) -> Result<Json<AccountStatusDto>, Problem> {
    let status = match state.handle.account_command(account.clone(), command).await? {
        AccountAnswer::Frozen => "frozen",
        AccountAnswer::Unfrozen => "active",
        AccountAnswer::Closed => "closed",
        other => return Err(unexpected(&other)),
    };
    Ok(Json(AccountStatusDto { account: account.to_string(), status: status.to_owned() }))
}

/// Gives back the hold of a session that never began, or of which no meter was read for ten minutes. Nothing is
/// taken from the account for it any more: what it meters in the end is the operator's.
#[utoipa::path(post, path = "/accounts/{account}/releases", tag = "accounts",
    params(("account" = String, Path, description = "percent-encoded id"),
           ("Idempotency-Key" = String, Header, description = "1 to 128 visible ASCII characters; a key belongs to the account that the request is about")),
    request_body = ReleaseRequest, responses((status = 201, body = ReleasedDto)))]
pub(crate) async fn release(
    State(state): State<ApiState>,
    scope: Scope,
    IdPath(account): IdPath<AccountId>,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody(request): JsonBody<ReleaseRequest>,
) -> Result<(StatusCode, Json<ReleasedDto>), Problem> {
    let session: SessionId = id(&request.session, &scope)?;
    let command = AccountCommand::Release { key, session: session.clone(), at: now() };
    match state.handle.account_command(account.clone(), command).await? {
        AccountAnswer::Released { hold } => {
            let (account, session) = (account.to_string(), session.to_string());
            Ok((StatusCode::CREATED, Json(ReleasedDto { account, session, released: hold.to_string() })))
        }
        other => Err(unexpected(&other)),
    }
}
