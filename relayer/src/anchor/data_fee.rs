//! Data fees: what an L2 asks for publishing a transaction's bytes on its L1, beside gas.
//!
//! Sources: OP Stack specification, "L1-Cost fees" and the predeploy GasPriceOracle (its nodes want gas, value and this fee in
//! the balance); Arbitrum `NodeInterface.sol` and `ArbSys.sol`.

use alloy::{
    consensus::{SignableTransaction, TxEip1559},
    primitives::{Address, U256, address},
    providers::Provider,
    sol,
};
use anyhow::Context;

use super::Sender;

sol! {
    #[sol(rpc)]
    interface GasPriceOracle {
        function getL1Fee(bytes data) external view returns (uint256);
    }

    #[sol(rpc)]
    interface NodeInterface {
        function gasEstimateL1Component(address to, bool contractCreation, bytes data)
            external payable returns (uint64 gasEstimateForL1, uint256 baseFee, uint256 l1BaseFeeEstimate);
    }
}

const GAS_PRICE_ORACLE: Address = address!("0x420000000000000000000000000000000000000F");
const ARB_SYS: Address = address!("0x0000000000000000000000000000000000000064");
const NODE_INTERFACE: Address = address!("0x00000000000000000000000000000000000000C8");

/// How a chain asks for data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataFee {
    /// Not beside gas.
    None,
    /// As a fee of its own, on top of gas.
    OpStack,
    /// As more gas, which an estimate holds already.
    Arbitrum,
}

/// Which of these the chain is; asked once.
async fn kind(sender: &Sender) -> anyhow::Result<DataFee> {
    let has_code = async |address| {
        let code = sender.provider.get_code_at(address).await.context("ask for the code of a predeploy")?;
        anyhow::Ok(!code.is_empty())
    };
    let find = async || {
        Ok(if has_code(GAS_PRICE_ORACLE).await? {
            DataFee::OpStack
        } else if has_code(ARB_SYS).await? {
            DataFee::Arbitrum
        } else {
            DataFee::None
        })
    };
    sender.data_fee.get_or_try_init(find).await.copied()
}

/// What the balance has to hold for a transaction's data beside its gas, wei; the whole fee for data goes into the metric
/// `data_fee_wei`.
pub async fn beside_gas(sender: &Sender, target: Address, draft: &TxEip1559) -> anyhow::Result<U256> {
    let (fee, beside) = match kind(sender).await? {
        DataFee::None => return Ok(U256::ZERO),
        DataFee::OpStack => {
            let oracle = GasPriceOracle::new(GAS_PRICE_ORACLE, &sender.provider);
            let fee = oracle.getL1Fee(draft.encoded_for_signing().into()).call().await;
            let fee = fee.context("ask the gas price oracle for the L1 fee")?;
            (fee, fee)
        }
        DataFee::Arbitrum => {
            let node = NodeInterface::new(NODE_INTERFACE, &sender.provider);
            let estimate = node.gasEstimateL1Component(target, false, draft.input.clone()).call().await;
            let estimate = estimate.context("ask the node interface for the L1 part of the gas")?;
            (U256::from(estimate.gasEstimateForL1).saturating_mul(estimate.baseFee), U256::ZERO)
        }
    };
    metrics::gauge!("data_fee_wei").set(f64::from(fee));
    Ok(beside)
}
