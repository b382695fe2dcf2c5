//! What operators have earned.

use crate::ApiState;
use crate::dto::OperatorBalancesDto;
use crate::extract::IdPath;
use crate::problem::Problem;
use axum::Json;
use axum::extract::State;
use chargeplane_domain::ids::OperatorId;

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
