//! What each failure is to the caller: a refusal is 403 with a type of its own, a fault of ours 5xx and no secret in it.

use axum::http::StatusCode;
use tidemark::service::{Problem, causes};

use crate::{audit::AuditError, chain::ChainFault, check::Refusal};

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self::new(StatusCode::FORBIDDEN, refusal.slug(), "The key is not released", refusal.to_string())
    }
}

impl From<ChainFault> for Problem {
    fn from(fault: ChainFault) -> Self {
        tracing::error!(cause = causes(&fault), "the chain could not be read");
        let (slug, title) = match fault {
            ChainFault::Stale { .. } => ("chain-stale", "The custodian's node has fallen behind"),
            _ => ("chain-unreachable", "The custodian can't read the chain now"),
        };
        let detail = "nothing is released without a fresh look at the chain; ask again in a few seconds";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, slug, title, detail)
    }
}

impl From<AuditError> for Problem {
    fn from(error: AuditError) -> Self {
        if !matches!(error, AuditError::Sql { .. }) {
            return Self::internal(&error);
        }
        tracing::error!(cause = causes(&error), "the audit list could not be used");
        let title = "The custodian can't use its database now";
        let detail = "nothing is released without its entry in the audit list; ask again in a few seconds";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "database-unreachable", title, detail)
    }
}

/// 503: all places are taken.
pub(crate) fn busy() -> Problem {
    let title = "Too many requests at once";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", title, "ask again in a few seconds")
}

/// 400: not a release request.
pub(crate) fn body_invalid(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "body-invalid", "The body is not a release request", detail)
}

#[cfg(test)]
mod tests {
    use alloy::primitives::U256;

    use super::*;

    #[test]
    fn a_refusal_is_403_and_a_fault_of_ours_is_503() {
        let refusal = Refusal::LicenseInactive { license_id: U256::from(7), status: "revoked".into() };
        let problem = Problem::from(refusal);
        assert_eq!((problem.status, problem.slug()), (403, "license-inactive"));
        let problem = Problem::from(ChainFault::Slow);
        assert_eq!((problem.status, problem.slug()), (503, "chain-unreachable"));
        let problem = Problem::from(ChainFault::Stale { number: 1, age_seconds: 999, max: 300 });
        assert_eq!((problem.status, problem.slug()), (503, "chain-stale"));
        let source = sqlx::Error::PoolTimedOut;
        let problem = Problem::from(AuditError::Sql { doing: "list releases", source });
        assert_eq!((problem.status, problem.slug()), (503, "database-unreachable"));
        assert!(!problem.detail.contains("pool"));
    }
}
