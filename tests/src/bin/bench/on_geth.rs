//! A history on geth, whose blocks are on the disk: one signed transaction a block, blocks back to back.

use alloy::{
    consensus::TxEnvelope,
    eips::eip2718::Encodable2718,
    network::{EthereumWallet, NetworkTransactionBuilder, TransactionBuilder},
    primitives::{Address, Bytes, U256},
    providers::Provider,
    rpc::types::TransactionRequest,
};
use anyhow::{Context, Result, ensure};
use tidemark_tests::{
    Stack,
    geth::Geth,
    keys::{dev_address, dev_signer},
    progress::Step,
};

/// Who sends them.
const SENDER: &str = "history";
/// Blocks that are signed before geth makes them, and after which it is told what is final.
const BLOCKS_AT_ONCE: usize = 100;
/// The same as on anvil, and far from what 255 events take.
const GAS: u64 = 0x20_0000;
/// Many times the base fee of a chain whose blocks are nearly empty, in wei.
const FEE: u128 = 10_000_000_000;

/// Deploys code; gives its address.
pub async fn deploy(stack: &Stack, code: Bytes) -> Result<Address> {
    let sender = stack.sender(SENDER).await?;
    let deployment = TransactionRequest::default().with_deploy_code(code).with_gas_limit(GAS);
    let pending = sender.send_transaction(deployment).await.context("failed to send the emitter")?;
    let receipt = pending.get_receipt().await.context("failed to read the emitter's receipt")?;
    ensure!(receipt.status(), "the emitter was not deployed: {receipt:?}");
    receipt.contract_address.context("the emitter's receipt has no address")
}

/// Calls the emitter with each of these numbers, a block a call.
pub async fn call_each(
    geth: &Geth,
    emitter: Address,
    numbers: impl Iterator<Item = u64> + Send,
    bar: &Step,
) -> Result<()> {
    let wallet = EthereumWallet::from(dev_signer(SENDER)?);
    let nonce = geth.provider().get_transaction_count(dev_address(SENDER)?).await;
    let mut nonces = nonce.context("failed to ask for the sender's nonce")?..;
    let mut numbers = numbers.peekable();
    while numbers.peek().is_some() {
        let mut blocks = Vec::new();
        for (number, nonce) in numbers.by_ref().take(BLOCKS_AT_ONCE).zip(nonces.by_ref()) {
            let call = TransactionRequest::default().with_to(emitter).with_nonce(nonce).with_gas_limit(GAS);
            let call = call.with_input(U256::from(number).to_be_bytes::<32>()).with_chain_id(31_337);
            let call = call.with_max_fee_per_gas(FEE).with_max_priority_fee_per_gas(0);
            let signed: TxEnvelope = call.build(&wallet).await.context("failed to sign a call")?;
            blocks.push(vec![Bytes::from(signed.encoded_2718())]);
        }
        let count = blocks.len();
        geth.commit(blocks).await?;
        (0..count).for_each(|_| bar.advance());
    }
    Ok(())
}
