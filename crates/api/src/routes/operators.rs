//! What operators have earned, and how it is paid out.

use super::accounts::unexpected;
use crate::ApiState;
use crate::auth::Scope;
use crate::dto::{OperatorBalancesDto, OperatorStatementDto, PayoutDto, PayoutRequest, amount, currency};
use crate::extract::{IdPath, IdempotencyKey, JsonBody, QueryOf, id, moment, page_limit};
use crate::problem::Problem;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chargeplane_actors::handle::{OperatorQuery, Payee, Positions};
use chargeplane_domain::ids::{AccountId, OperatorId};
use serde::Deserialize;

/// What an operator has earned, by currency, over all shards. Empty when nothing was settled yet.
#[utoipa::path(get, path = "/operators/{operator}/balance", tag = "accounts",
    params(("operator" = String, Path, description = "percent-encoded id")),
    responses((status = 200, body = OperatorBalancesDto)))]
pub(crate) async fn balance(
    State(state): State<ApiState>,
    IdPath(operator): IdPath<OperatorId>,
) -> Result<Json<OperatorBalancesDto>, Problem> {
    let balances = state.handle.operator_balance(&operator).await?;
    Ok(Json(OperatorBalancesDto::new(operator.to_string(), &balances)))
}

/// Pays out what an operator, or another party of an agreement, has earned: to an account, or to a bank.
///
/// All of it or nothing: refused with 402 `insufficient_funds` when less was earned and not paid out. That refusal is
/// not remembered with its key; every other answer is.
#[utoipa::path(post, path = "/operators/{operator}/payouts", tag = "accounts",
    params(("operator" = String, Path, description = "percent-encoded id"),
           ("Idempotency-Key" = String, Header, description = "1 to 128 visible ASCII characters; a key belongs to the operator and the currency")),
    request_body = PayoutRequest, responses((status = 201, body = PayoutDto)))]
pub(crate) async fn pay_out(
    State(state): State<ApiState>,
    scope: Scope,
    IdPath(operator): IdPath<OperatorId>,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody(request): JsonBody<PayoutRequest>,
) -> Result<(StatusCode, Json<PayoutDto>), Problem> {
    let payee = match (request.to, request.to_bank) {
        (Some(account), None) => Payee::Account(id::<AccountId>(&account, &scope)?),
        (None, Some(reference)) => Payee::Bank(reference),
        _ => return Err(Problem::new("invalid", "write one of `to`, an account, and `to_bank`, a bank's reference")),
    };
    let (amount, currency) = (amount("amount", &request.amount)?, currency(request.currency.as_deref())?);
    let paid = state.handle.pay_out(&operator, currency, payee, key, amount).await?;
    match PayoutDto::new(operator.to_string(), &paid) {
        Some(paid) => Ok((StatusCode::CREATED, Json(paid))),
        None => Err(unexpected(&paid.answer)),
    }
}

/// What of an operator's statement is asked for.
#[derive(Debug, Clone, Default, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct StatementQuery {
    /// ISO 4217 code; may be left out where the operator has money of one currency only.
    currency: Option<String>,
    /// Lines at or after this moment.
    from: Option<String>,
    /// Lines before this moment.
    to: Option<String>,
    /// Continue after this `next` of the page before.
    after: Option<String>,
    /// Most lines of the answer, 1 to 10,000; 1,000 when left out. An hour is told whole, so it may be a few more.
    limit: Option<usize>,
    /// The lines of each journal frame instead of each hour's: an audit of their till tells the entries behind them.
    #[serde(default)]
    frames: bool,
}

/// What changed what an operator is owed, oldest first: each hour's revenue and shares, and each payout.
///
/// A projection of the journal that waits for what was answered before. Should it be too far behind for that (two
/// seconds), `complete` is false.
#[utoipa::path(get, path = "/operators/{operator}/statement", tag = "accounts",
    params(("operator" = String, Path, description = "percent-encoded id"), StatementQuery),
    responses((status = 200, body = OperatorStatementDto)))]
pub(crate) async fn statement(
    State(state): State<ApiState>,
    IdPath(operator): IdPath<OperatorId>,
    QueryOf(query): QueryOf<StatementQuery>,
) -> Result<Json<OperatorStatementDto>, Problem> {
    let at = |name: &str, text: &Option<String>| text.as_deref().map(|text| moment(name, text)).transpose();
    let (from, to) = (at("from", &query.from)?, at("to", &query.to)?);
    let after = query.after.as_deref().map_or(Ok(Positions::default()), str::parse);
    let after = after.map_err(|e| Problem::new("bad_query", e.to_string()))?;
    let limit = page_limit(query.limit)?;
    let currency = match currency(query.currency.as_deref())? {
        Some(currency) => currency,
        None => state.handle.only_currency(&operator).await?,
    };
    let (name, code) = (operator.to_string(), currency.to_string());
    let frames = query.frames;
    let query = OperatorQuery { operator, currency, from, to, after, limit, frames };
    let page = state.handle.operator_statement(query).await?;
    Ok(Json(OperatorStatementDto::new(name, code, page)))
}
