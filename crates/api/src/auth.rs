//! Who may ask: bearer tokens, each of one tenant or of all.
//!
//! Tokens are compared in constant time and every known token is compared, so that an answer's time says
//! nothing about how much of a guess was right.

use crate::problem::Problem;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::{HeaderMap, header, request::Parts};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use chargeplane_domain::ids::TenantId;
use std::fmt;
use std::sync::Arc;
use subtle::{Choice, ConstantTimeEq};

/// Shortest token: 128 bits as hex digits.
pub const MIN_TOKEN_LEN: usize = 32;

/// What a token may touch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Everything, also what belongs to no tenant.
    AllTenants,
    /// Only what belongs to this tenant.
    Tenant(TenantId),
}

impl Scope {
    /// True when things of `tenant` may be seen and changed.
    pub fn covers(&self, tenant: &str) -> bool {
        match self {
            Self::AllTenants => true,
            Self::Tenant(own) => own.as_str() == tenant,
        }
    }

    /// Who it is, for the records: the tenant, or `*`.
    pub fn name(&self) -> &str {
        self.tenant().unwrap_or("*")
    }

    /// The only tenant it covers; none for all.
    pub fn tenant(&self) -> Option<&str> {
        match self {
            Self::AllTenants => None,
            Self::Tenant(own) => Some(own.as_str()),
        }
    }

    /// Refuses what belongs to another tenant.
    pub fn require(&self, tenant: &str) -> Result<(), Problem> {
        if self.covers(tenant) {
            return Ok(());
        }
        Err(Problem::new("other_tenant", format!("the token does not cover tenant {tenant}")))
    }

    /// Refuses what belongs to no tenant, unless the token covers all.
    pub fn require_all(&self) -> Result<(), Problem> {
        match self {
            Self::AllTenants => Ok(()),
            Self::Tenant(own) => Err(Problem::new(
                "other_tenant",
                format!("the token covers tenant {own} only; this concerns the whole node"),
            )),
        }
    }
}

/// The tokens of a node. `Debug` shows how many there are, never what they are.
#[derive(Clone, Default)]
pub struct Tokens(Arc<[(String, Scope)]>);

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tokens", self.0.len())
    }
}

impl Tokens {
    /// Tokens with their scopes.
    pub fn new(tokens: impl IntoIterator<Item = (String, Scope)>) -> Self {
        Self(tokens.into_iter().collect())
    }

    /// Reads a token file: a line each, `TOKEN` for all tenants or `TENANT TOKEN`; `#` begins a comment.
    ///
    /// # Errors
    ///
    /// The line, what is wrong with it (never the token) and what to write.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut tokens = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut words = line.split_whitespace();
            let (token, scope) = match (words.next(), words.next(), words.next()) {
                (Some(token), None, _) => (token, Scope::AllTenants),
                (Some(tenant), Some(token), None) => {
                    let tenant = TenantId::new(tenant).map_err(|e| format!("line {}: tenant: {e}", number + 1))?;
                    (token, Scope::Tenant(tenant))
                }
                _ => return Err(format!("line {}: write `TOKEN` or `TENANT TOKEN`", number + 1)),
            };
            if token.len() < MIN_TOKEN_LEN || !token.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(format!(
                    "line {}: a token has at least {MIN_TOKEN_LEN} visible ASCII characters",
                    number + 1
                ));
            }
            tokens.push((token.to_owned(), scope));
        }
        if tokens.is_empty() {
            return Err("no token in it; write one line with a token".to_owned());
        }
        Ok(Self::new(tokens))
    }

    /// The scope of a token that somebody shows.
    pub fn scope_of(&self, shown: &str) -> Option<Scope> {
        let mut found = None;
        for (token, scope) in self.0.iter() {
            let same: Choice = token.as_bytes().ct_eq(shown.as_bytes());
            if bool::from(same) {
                found = Some(scope.clone());
            }
        }
        found
    }

    /// The scope of a request, or why it has none.
    pub fn check(&self, headers: &HeaderMap) -> Result<Scope, Problem> {
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return Err(Problem::new(
                "token_missing",
                "send `Authorization: Bearer <token>`; `chargeplane dev` prints its token and keeps it in \
                 DATA_DIR/api-token",
            ));
        };
        let token = value.to_str().ok().and_then(|text| {
            let (scheme, token) = text.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        let Some(token) = token else {
            return Err(Problem::new("token_missing", "the Authorization header is not `Bearer <token>`"));
        };
        self.scope_of(token).ok_or_else(|| Problem::new("token_unknown", "this node does not know the token"))
    }
}

/// Lets a request pass with its [`Scope`] attached, or answers why not.
pub async fn require_token(State(tokens): State<Tokens>, mut request: Request, next: Next) -> Response {
    match tokens.check(request.headers()) {
        Ok(scope) => {
            request.extensions_mut().insert(scope);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Scope {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        // Missing only if a route was laid outside the token's layer: then nothing may be touched.
        parts.extensions.get::<Scope>().cloned().ok_or_else(|| Problem::new("token_missing", "a token is needed"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    #[test]
    fn a_token_file_gives_scopes() {
        let tokens = Tokens::parse(&format!("# ours\n{A}\n\nacme {B}\n")).unwrap();
        assert_eq!(tokens.scope_of(A), Some(Scope::AllTenants));
        let acme = tokens.scope_of(B).unwrap();
        assert!(acme.covers("acme") && !acme.covers("main"));
        assert_eq!(acme.require("main").unwrap_err().code, "other_tenant");
        assert_eq!(acme.require_all().unwrap_err().status, 403);
        assert_eq!(tokens.scope_of(&A[1..]), None);
        assert_eq!(format!("{tokens:?}"), "2 tokens");
    }

    #[test]
    fn a_bad_token_file_is_refused_with_its_line_and_without_the_token() {
        assert!(Tokens::parse("\nshort\n").unwrap_err().starts_with("line 2:"));
        assert!(!Tokens::parse("\nshort\n").unwrap_err().contains("short"));
        assert!(Tokens::parse(&format!("a b {A}")).unwrap_err().starts_with("line 1:"));
        assert!(Tokens::parse(&format!("bad/tenant {A}")).unwrap_err().contains("tenant"));
        assert!(Tokens::parse("# nothing\n").is_err());
    }

    #[test]
    fn only_a_bearer_token_passes() {
        let tokens = Tokens::parse(A).unwrap();
        let check = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            tokens.check(&headers).map_err(|p| p.code)
        };
        assert_eq!(check(&format!("Bearer {A}")), Ok(Scope::AllTenants));
        assert_eq!(check(&format!("bearer {A}")), Ok(Scope::AllTenants));
        assert_eq!(check(&format!("Basic {A}")), Err("token_missing"));
        assert_eq!(check(&format!("Bearer {B}")), Err("token_unknown"));
        assert_eq!(tokens.check(&HeaderMap::new()).unwrap_err().code, "token_missing");
    }
}
