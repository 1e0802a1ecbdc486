//! Transactions of the story: sent, mined, succeeded, and remembered for the closing table.

use std::sync::{Mutex, PoisonError};

use alloy::{
    contract::Error as ContractError, network::Ethereum, primitives::B256, providers::PendingTransactionBuilder,
    rpc::types::TransactionReceipt,
};
use anyhow::{Context, Result, anyhow, ensure};
use tidemark::contracts::{Authority, IPRegistry, LicenseRegistry, PointsTreasury, ProvenanceLog};

/// One transaction that went through.
#[derive(Clone, Debug)]
pub struct Sent {
    /// What it was for.
    pub what: String,
    /// Its hash.
    pub hash: B256,
    /// What it cost.
    pub gas: u64,
    /// Its block.
    pub block: u64,
}

/// All of a story's, in order.
#[derive(Debug, Default)]
pub struct Transactions(Mutex<Vec<Sent>>);

impl Transactions {
    /// Waits until a transaction is mined, and fails where it reverted.
    pub async fn mined(
        &self,
        what: &str,
        sent: Result<PendingTransactionBuilder<Ethereum>, ContractError>,
    ) -> Result<TransactionReceipt> {
        let pending = sent.map_err(|error| anyhow!("failed to send the transaction: {what}: {}", why(&error)))?;
        let receipt = pending.get_receipt().await.with_context(|| format!("failed to wait for: {what}"))?;
        ensure!(receipt.status(), "reverted: {what} (transaction {})", receipt.transaction_hash);
        self.note(what, receipt.transaction_hash, receipt.gas_used, receipt.block_number.unwrap_or_default());
        Ok(receipt)
    }

    /// Remembers one that somebody else waited for.
    pub fn note(&self, what: &str, hash: B256, gas: u64, block: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Sent { what: what.into(), hash, gas, block });
    }

    /// All so far.
    pub fn all(&self) -> Vec<Sent> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Sends a contract call and waits for a receipt that says it succeeded.
#[macro_export]
macro_rules! mined {
    ($what:expr, $call:expr) => {{
        let what = $what;
        let pending =
            $call.send().await.map_err(|e| anyhow::anyhow!("{what}: {}", $crate::story::transactions::why(&e)))?;
        let receipt = pending.get_receipt().await.map_err(|e| anyhow::anyhow!("{what}: no receipt: {e}"))?;
        anyhow::ensure!(receipt.status(), "{what}: reverted in {}", receipt.transaction_hash);
        receipt
    }};
}

/// What a contract said no with, by the name of its error, else the node's words.
pub fn why(error: &alloy::contract::Error) -> String {
    macro_rules! decoded {
        ($($errors:ty),*) => {$(
            if let Some(known) = error.as_decoded_interface_error::<$errors>() {
                return format!("{known:?}");
            }
        )*};
    }
    decoded!(
        ProvenanceLog::ProvenanceLogErrors,
        IPRegistry::IPRegistryErrors,
        LicenseRegistry::LicenseRegistryErrors,
        PointsTreasury::PointsTreasuryErrors,
        Authority::AuthorityErrors
    );
    error.to_string()
}
