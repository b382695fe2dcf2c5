//! Accounts: open, top up, statement.

use crate::ApiState;
use crate::auth::Scope;
use crate::dto::{
    AccountDto, AccountKindDto, LedgerEntryDto, OpenAccountRequest, OpenedDto, Page, StatementDto, TopUpRequest,
    ToppedUpDto, amount, currency,
};
use crate::extract::{IdPath, IdempotencyKey, JsonBody, PageQuery, QueryOf, id, now, page_of};
use crate::problem::Problem;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chargeplane_actors::views::Statement;
use chargeplane_domain::account::{AccountAnswer, AccountCommand, AccountKind};
use chargeplane_domain::ids::AccountId;
use chargeplane_domain::units::{Currency, Money};

/// Accounts, by id.
#[utoipa::path(get, path = "/accounts", tag = "accounts", params(PageQuery),
    responses((status = 200, body = Page<AccountDto>)))]
pub(crate) async fn list(
    State(state): State<ApiState>,
    scope: Scope,
    QueryOf(query): QueryOf<PageQuery>,
) -> Result<Json<Page<AccountDto>>, Problem> {
    let limit = query.limit()?;
    let views = state.handle.accounts(page_of(query.after.as_deref(), limit, &scope)?).await?;
    let items = views.into_iter().map(AccountDto::from).collect();
    Ok(Json(Page::part(items, limit, |a: &AccountDto| a.id.clone())))
}

/// An account.
#[utoipa::path(get, path = "/accounts/{account}", tag = "accounts",
    params(("account" = String, Path, description = "percent-encoded id")),
    responses((status = 200, body = AccountDto)))]
pub(crate) async fn get(
    State(state): State<ApiState>,
    IdPath(account): IdPath<AccountId>,
) -> Result<Json<AccountDto>, Problem> {
    Ok(Json(state.handle.account(&account).await?.into()))
}

/// Opens an account.
#[utoipa::path(post, path = "/accounts", tag = "accounts",
    params(("Idempotency-Key" = String, Header, description = "1 to 128 visible ASCII characters; a key belongs to the account that the request is about")),
    request_body = OpenAccountRequest, responses((status = 201, body = OpenedDto)))]
pub(crate) async fn open(
    State(state): State<ApiState>,
    scope: Scope,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody(request): JsonBody<OpenAccountRequest>,
) -> Result<(StatusCode, Json<OpenedDto>), Problem> {
    let account: AccountId = id(&request.account, &scope)?;
    let currency = Currency::new(&request.currency).map_err(|e| Problem::new("invalid", format!("currency: {e}")))?;
    let kind = kind_of(&request)?;
    let command = AccountCommand::Open { key, currency, kind, holder: request.holder.into(), at: now() };
    match state.handle.account_command(account, command).await? {
        AccountAnswer::Opened(summary) => {
            let (id, currency) = (summary.id.to_string(), summary.currency.to_string());
            let opened = OpenedDto::new(id, currency, &summary.kind, summary.holder);
            Ok((StatusCode::CREATED, Json(opened)))
        }
        other => Err(unexpected(&other)),
    }
}

fn kind_of(request: &OpenAccountRequest) -> Result<AccountKind, Problem> {
    match (request.kind, &request.credit_limit) {
        (AccountKindDto::Prepaid, None) => Ok(AccountKind::Prepaid),
        (AccountKindDto::Prepaid, Some(_)) => {
            Err(Problem::new("invalid", "credit_limit: leave it out for a prepaid account, or write kind credit"))
        }
        (AccountKindDto::Credit, None) => {
            Err(Problem::new("invalid", "credit_limit: write how far the account may go below zero, such as \"100\""))
        }
        (AccountKindDto::Credit, Some(text)) => match amount("credit_limit", text)? {
            limit if limit < Money::ZERO => Err(Problem::new("invalid", "credit_limit: write a positive amount")),
            limit => Ok(AccountKind::Credit { limit }),
        },
    }
}

/// Pays money into an account.
#[utoipa::path(post, path = "/accounts/{account}/top-ups", tag = "accounts",
    params(("account" = String, Path, description = "percent-encoded id"),
           ("Idempotency-Key" = String, Header, description = "1 to 128 visible ASCII characters; a key belongs to the account that the request is about")),
    request_body = TopUpRequest, responses((status = 201, body = ToppedUpDto)))]
pub(crate) async fn top_up(
    State(state): State<ApiState>,
    IdPath(account): IdPath<AccountId>,
    IdempotencyKey(key): IdempotencyKey,
    JsonBody(request): JsonBody<TopUpRequest>,
) -> Result<(StatusCode, Json<ToppedUpDto>), Problem> {
    let (amount, currency) = (amount("amount", &request.amount)?, currency(request.currency.as_deref())?);
    let command = AccountCommand::TopUp { key, amount, currency, at: now() };
    match state.handle.account_command(account.clone(), command).await? {
        AccountAnswer::ToppedUp { balance } => {
            let answer = ToppedUpDto { account: account.to_string(), balance: balance.to_string() };
            Ok((StatusCode::CREATED, Json(answer)))
        }
        other => Err(unexpected(&other)),
    }
}

/// An account answered something else than it was asked: a fault of this program, never of the caller.
pub(super) fn unexpected(answer: &AccountAnswer) -> Problem {
    tracing::error!(?answer, "the account gave an answer of another kind");
    Problem::new("internal", "the account gave an answer of another kind; the node's log has it")
}

/// The lines of an account's ledger, oldest first.
///
/// A projection of the journal that waits for what was answered before. Should it be too far behind for that (two
/// seconds), `complete` is false: the last lines may be missing.
#[utoipa::path(get, path = "/accounts/{account}/statement", tag = "accounts",
    params(("account" = String, Path, description = "percent-encoded id"), PageQuery),
    responses((status = 200, body = StatementDto)))]
pub(crate) async fn statement(
    State(state): State<ApiState>,
    IdPath(account): IdPath<AccountId>,
    QueryOf(query): QueryOf<PageQuery>,
) -> Result<Json<StatementDto>, Problem> {
    let limit = query.limit()?;
    let after = query.after.as_deref().map_or(Ok((0, 0)), statement_cursor)?;
    let Statement { entries, complete } = state.handle.statement(&account, after, limit).await?;
    let next =
        if entries.len() < limit { None } else { entries.last().map(|last| format!("{}.{}", last.lsn, last.index)) };
    Ok(Json(StatementDto { items: entries.into_iter().map(LedgerEntryDto::from).collect(), next, complete }))
}

/// `lsn.index` of the last line of the page before.
pub(super) fn statement_cursor(text: &str) -> Result<(u64, u32), Problem> {
    let parts = text.split_once('.').and_then(|(lsn, index)| Some((lsn.parse().ok()?, index.parse().ok()?)));
    parts.ok_or_else(|| Problem::new("bad_query", "after: give back the `next` of the page before"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dto::HolderDto;

    fn request(kind: AccountKindDto, credit_limit: Option<&str>) -> OpenAccountRequest {
        OpenAccountRequest {
            account: "a1".into(),
            currency: "CNY".into(),
            kind,
            credit_limit: credit_limit.map(Into::into),
            holder: HolderDto::Personal,
        }
    }

    #[test]
    fn a_credit_account_needs_a_limit_and_a_prepaid_one_has_none() {
        use AccountKindDto::{Credit, Prepaid};
        assert_eq!(kind_of(&request(Prepaid, None)).unwrap(), AccountKind::Prepaid);
        let limit = Money(1_000_000);
        assert_eq!(kind_of(&request(Credit, Some("100"))).unwrap(), AccountKind::Credit { limit });
        assert_eq!(kind_of(&request(Credit, Some("-1"))).unwrap_err().code, "invalid");
        assert_eq!(kind_of(&request(Credit, Some("1e3"))).unwrap_err().code, "invalid_amount");
        assert!(kind_of(&request(Credit, None)).is_err());
        assert!(kind_of(&request(Prepaid, Some("1"))).is_err());
    }

    #[test]
    fn statement_cursors_read_back() {
        assert_eq!(statement_cursor("12.3").unwrap(), (12, 3));
        assert_eq!(statement_cursor("12").unwrap_err().code, "bad_query");
    }
}
