//! Reverts: the name and arguments of a contract's custom error, out of what a node answers.

use alloy::{
    sol_types::SolInterface,
    transports::{RpcError, TransportError},
};
use tidemark::{
    contracts::{ConsentRegistry::ConsentRegistryErrors, ProvenanceLog::ProvenanceLogErrors},
    nodes::said::Said,
};

/// The revert in a node's answer as text, or `None` where the node failed for another reason.
pub fn reason(error: &TransportError) -> Option<String> {
    let RpcError::ErrorResp(payload) = error else { return None };
    let data = payload.as_revert_data();
    if let Some(data) = &data
        && let Some(named) = named(data)
    {
        return Some(named);
    }
    let is_revert = data.is_some() || Said::in_answer(payload) == Said::Reverted;
    is_revert.then(|| payload.message.to_string())
}

/// The custom error that these bytes encode.
pub fn named(data: &[u8]) -> Option<String> {
    let text = ProvenanceLogErrors::abi_decode(data).map(|error| format!("{error:?}"));
    let text = text.or_else(|_| ConsentRegistryErrors::abi_decode(data).map(|error| format!("{error:?}")));
    // the enum's variant and its struct have the same name: keep the struct
    text.ok().map(|text| match text.split_once('(') {
        Some((variant, rest)) if rest.starts_with(variant) => rest.strip_suffix(')').unwrap_or(rest).to_owned(),
        _ => text,
    })
}

#[cfg(test)]
mod tests {
    use alloy::sol_types::SolError;
    use tidemark::contracts::ProvenanceLog;

    use super::*;

    #[test]
    fn a_revert_is_told_by_its_name_and_arguments() {
        let error = ProvenanceLog::BudgetExceeded { taskId: 7, escrow: 5, amount: 6 };
        let text = named(&error.abi_encode()).unwrap();
        assert!(text.starts_with("BudgetExceeded {") && text.contains("taskId: 7") && text.ends_with('}'), "{text}");
        assert!(named(&[1, 2, 3, 4]).is_none());
    }
}
