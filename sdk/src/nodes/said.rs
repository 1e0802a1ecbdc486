//! What a node says when it does not do what it was asked, in classes: clients have words for it, no codes.

use alloy::{
    rpc::json_rpc::ErrorPayload,
    transports::{RpcError, TransportError, TransportErrorKind},
};

/// A class of errors of `eth_sendRawTransaction`, `eth_estimateGas` and `eth_call`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// It has these bytes already.
    AlreadyKnown,
    /// The chain has another transaction with this nonce, or this one.
    NonceTooLow,
    /// Transactions with lower nonces are missing.
    NonceTooHigh,
    /// The pool has another transaction with this nonce, and this one pays too little more.
    ReplacementUnderpriced,
    /// The fee is below what the node, or the next block, wants.
    Underpriced,
    /// The sender can't pay gas and value.
    InsufficientFunds,
    /// Less gas than the call costs before it runs, or more than a block has.
    GasLimit,
    /// The whole fee is above what the node lets anybody pay.
    FeeCap,
    /// No room in the node's pool, or for this sender in it.
    PoolFull,
    /// The contract said no.
    Reverted,
    /// Blocks with more logs, or more blocks, than it answers for at once.
    TooMuch,
    /// Asked too often.
    RateLimited,
    /// No answer in time.
    TimedOut,
    /// No answer, or none that can be read.
    NotAnswered,
    /// Anything else.
    Unknown,
}

impl Said {
    /// As it stands in metrics, in the database and in `/status`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AlreadyKnown => "already known",
            Self::NonceTooLow => "nonce too low",
            Self::NonceTooHigh => "nonce too high",
            Self::ReplacementUnderpriced => "replacement underpriced",
            Self::Underpriced => "underpriced",
            Self::InsufficientFunds => "balance too low",
            Self::GasLimit => "gas limit",
            Self::FeeCap => "the node's fee cap",
            Self::PoolFull => "the node's pool is full",
            Self::Reverted => "reverted",
            Self::TooMuch => "too much asked for",
            Self::RateLimited => "rate limited",
            Self::TimedOut => "timed out",
            Self::NotAnswered => "not answered",
            Self::Unknown => "unknown",
        }
    }

    /// The class of an error.
    pub fn of(error: &TransportError) -> Self {
        match error {
            RpcError::ErrorResp(payload) => Self::in_answer(payload),
            RpcError::Transport(TransportErrorKind::Custom(cause)) => {
                if cause.to_string().starts_with(TOO_LONG) {
                    return Self::TooMuch;
                }
                let is_timeout = cause.downcast_ref::<reqwest::Error>().is_some_and(reqwest::Error::is_timeout);
                if is_timeout { Self::TimedOut } else { Self::NotAnswered }
            }
            RpcError::Transport(kind) => match kind.as_http_error() {
                Some(http) if http.is_rate_limit_err() => Self::RateLimited,
                _ => Self::NotAnswered,
            },
            RpcError::DeserError { .. } | RpcError::NullResp => Self::NotAnswered,
            _ => Self::Unknown,
        }
    }

    /// The class of a JSON-RPC error.
    pub fn in_answer(payload: &ErrorPayload) -> Self {
        let message = payload.message.to_lowercase();
        let found = WORDS.iter().find(|(words, _)| message.contains(words)).map(|(_, said)| *said);
        // alloy knows the words for "too often" in lower case only
        let payload: ErrorPayload = ErrorPayload { code: payload.code, message: message.into(), data: None };
        // only now by code: -32005 is Infura's "too many requests" and Besu's "gas limit exceeds block gas limit"
        found.unwrap_or(match payload.code {
            3 => Self::Reverted,
            _ if payload.is_retry_err() => Self::RateLimited,
            _ => Self::Unknown,
        })
    }
}

/// How an answer begins that we did not read to its end.
pub(super) const TOO_LONG: &str = "an answer of more";

/// Words in lower case and what they mean; the first that occur count, so what holds others comes before them.
///
/// Sources: geth `core/error.go`, `core/txpool/errors.go`, `core/txpool/legacypool/legacypool.go`, `internal/ethapi/api.go`;
/// anvil `crates/anvil/src/eth/error.rs`; erigon `txnprovider/txpool/txpoolcfg/txpoolcfg.go`; nethermind
/// `Nethermind.TxPool/AcceptTxResult.cs` (names in CamelCase are those of releases that answered with them); besu
/// `RpcErrorType.java`; reth `rpc-eth-types/src/error` (`RpcPoolError`, which mirrors geth).
const WORDS: &[(&str, Said)] = &[
    // a contract may put any words into its reason
    ("execution reverted", Said::Reverted),
    ("already known", Said::AlreadyKnown),
    ("alreadyknown", Said::AlreadyKnown),
    ("already imported", Said::AlreadyKnown),
    ("known transaction", Said::AlreadyKnown),
    ("existing txn with same hash", Said::AlreadyKnown),
    ("nonce too low", Said::NonceTooLow),
    ("oldnonce", Said::NonceTooLow),
    ("nonce too high", Said::NonceTooHigh),
    ("noncegap", Said::NonceTooHigh),
    ("nonce is too distant", Said::NonceTooHigh),
    ("noncetoofarinfuture", Said::NonceTooHigh),
    ("nonce too far in the future", Said::NonceTooHigh),
    ("gapped-nonce", Said::NonceTooHigh),
    ("lower nonce exists", Said::NonceTooHigh),
    ("replacement transaction underpriced", Said::ReplacementUnderpriced),
    ("insufficient gas price to replace", Said::ReplacementUnderpriced),
    ("could not replace existing tx", Said::ReplacementUnderpriced),
    ("replacementnotallowed", Said::ReplacementUnderpriced),
    ("future transaction tries to replace pending", Said::ReplacementUnderpriced),
    ("fee cap exceeded", Said::FeeCap),
    ("exceeds the configured cap", Said::FeeCap),
    ("underpriced", Said::Underpriced),
    ("fee too low", Said::Underpriced),
    ("feetoolow", Said::Underpriced),
    ("less than block base fee", Said::Underpriced),
    ("below minimum", Said::Underpriced),
    ("below configured minimum gas price", Said::Underpriced),
    ("below current base fee", Said::Underpriced),
    ("insufficient funds", Said::InsufficientFunds),
    ("insufficientfunds", Said::InsufficientFunds),
    ("upfront cost exceeds account balance", Said::InsufficientFunds),
    // of an estimate without fees, as ours are: the allowance is the node's own, not the balance
    ("gas required exceeds allowance", Said::GasLimit),
    ("intrinsic gas", Said::GasLimit),
    ("intrinsicgas", Said::GasLimit),
    ("exceeds block gas limit", Said::GasLimit),
    ("gas limit reached", Said::GasLimit),
    ("gaslimitexceeded", Said::GasLimit),
    ("gas limit is too high", Said::GasLimit),
    ("gas limit too high", Said::GasLimit),
    ("greater than the block gas limit", Said::GasLimit),
    ("pool is full", Said::PoolFull),
    ("account limit exceeded", Said::PoolFull),
    ("in-flight transaction limit reached", Said::PoolFull),
    ("revert", Said::Reverted),
    ("execution aborted (timeout", Said::TimedOut),
    ("timeout expired", Said::TimedOut),
    ("request timed out", Said::TimedOut),
    ("query returned more than", Said::TooMuch),
    ("response size exceeded", Said::TooMuch),
    ("response is too big", Said::TooMuch),
    ("exceeds max results", Said::TooMuch),
    ("too many results", Said::TooMuch),
    ("too many logs", Said::TooMuch),
    ("logs matched by query exceeds", Said::TooMuch),
    ("block range", Said::TooMuch),
    ("blocks range", Said::TooMuch),
    ("range is too large", Said::TooMuch),
    ("range exceeds", Said::TooMuch),
    ("range limit", Said::TooMuch),
    ("is limited to a", Said::TooMuch),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(code: i64, message: &'static str) -> ErrorPayload {
        ErrorPayload { code, message: message.into(), data: None }
    }

    #[test]
    fn what_clients_say_is_told_apart() {
        // client, code, message, class; the files that hold them stand at WORDS
        let table = [
            ("geth", -32000, "already known", Said::AlreadyKnown),
            ("geth", -32000, "nonce too low: next nonce 5, tx nonce 4", Said::NonceTooLow),
            ("geth", -32000, "nonce too high", Said::NonceTooHigh),
            ("geth", -32000, "gapped-nonce tx from delegated accounts", Said::NonceTooHigh),
            ("geth", -32000, "replacement transaction underpriced", Said::ReplacementUnderpriced),
            ("geth", -32000, "future transaction tries to replace pending", Said::ReplacementUnderpriced),
            ("geth", -32000, "transaction underpriced: gas tip cap 1, minimum needed 1000000", Said::Underpriced),
            ("geth", -32000, "transaction gas price below minimum: gas tip cap 0, minimum needed 1", Said::Underpriced),
            (
                "geth",
                -32000,
                "max fee per gas less than block base fee: address 0x1, maxFeePerGas: 1, baseFee: 7",
                Said::Underpriced,
            ),
            (
                "geth",
                -32000,
                "insufficient funds for gas * price + value: balance 0, tx cost 21000, overshot 21000",
                Said::InsufficientFunds,
            ),
            ("geth", -32000, "gas required exceeds allowance (50000000)", Said::GasLimit),
            ("geth", -32000, "intrinsic gas too low: gas 20999, minimum needed 21000", Said::GasLimit),
            ("geth", -32000, "exceeds block gas limit", Said::GasLimit),
            ("geth", -32000, "transaction gas limit too high (cap: 16777216, tx: 400000000)", Said::GasLimit),
            ("geth", -32000, "tx fee (2.10 ether) exceeds the configured cap (1.00 ether)", Said::FeeCap),
            ("geth", -32000, "txpool is full", Said::PoolFull),
            ("geth", -32000, "account limit exceeded", Said::PoolFull),
            ("geth", 3, "execution reverted", Said::Reverted),
            ("geth", 3, "execution reverted: nonce too low", Said::Reverted),
            ("geth", -32000, "execution aborted (timeout = 5s)", Said::TimedOut),
            ("geth", -32002, "request timed out", Said::TimedOut),
            ("anvil", -32003, "transaction already imported", Said::AlreadyKnown),
            ("anvil", -32003, "nonce too low", Said::NonceTooLow),
            ("anvil", -32003, "Insufficient funds for gas * price + value", Said::InsufficientFunds),
            ("anvil", -32003, "replacement transaction underpriced", Said::ReplacementUnderpriced),
            ("anvil", -32003, "max fee per gas less than block base fee", Said::Underpriced),
            ("anvil", -32003, "intrinsic gas too low", Said::GasLimit),
            ("anvil", -32003, "intrinsic gas too high -- tx.gas_limit > env.block.gas_limit", Said::GasLimit),
            ("anvil", 3, "execution reverted: custom error 0x59db34ea", Said::Reverted),
            ("anvil", -32003, "Out of gas: gas required exceeds allowance: 0", Said::GasLimit),
            ("erigon", -32000, "existing txn with same hash", Said::AlreadyKnown),
            ("erigon", -32000, "nonce too low", Said::NonceTooLow),
            ("erigon", -32000, "could not replace existing tx", Said::ReplacementUnderpriced),
            ("erigon", -32000, "underpriced", Said::Underpriced),
            ("erigon", -32000, "fee too low", Said::Underpriced),
            ("erigon", -32000, "insufficient funds", Said::InsufficientFunds),
            ("erigon", -32000, "IntrinsicGas", Said::GasLimit),
            ("erigon", -32000, "gas limit is too high", Said::GasLimit),
            ("erigon", -32000, "pending sub-pool is full", Said::PoolFull),
            ("erigon", -32000, "baseFee sub-pool is full", Said::PoolFull),
            ("nethermind", -32010, "AlreadyKnown", Said::AlreadyKnown),
            ("nethermind", -32010, "OldNonce, Current nonce: 7, nonce of rejected tx: 5.", Said::NonceTooLow),
            ("nethermind", -32010, "NonceGap, Future nonce. Expected nonce: 3", Said::NonceTooHigh),
            ("nethermind", -32010, "NonceTooFarInFuture", Said::NonceTooHigh),
            ("nethermind", -32010, "ReplacementNotAllowed", Said::ReplacementUnderpriced),
            ("nethermind", -32010, "FeeTooLow, MaxFeePerGas too low. MaxFeePerGas: 1, BaseFee: 7", Said::Underpriced),
            ("nethermind", -32010, "FeeTooLowToCompete", Said::Underpriced),
            (
                "nethermind",
                -32010,
                "InsufficientFunds, Account balance: 0, cumulative cost: 1",
                Said::InsufficientFunds,
            ),
            ("nethermind", -32010, "GasLimitExceeded, Gas limit: 30000000", Said::GasLimit),
            ("besu", -32000, "Known transaction", Said::AlreadyKnown),
            ("besu", -32001, "Nonce too low", Said::NonceTooLow),
            ("besu", -32006, "Nonce too high", Said::NonceTooHigh),
            ("besu", -32000, "Transaction nonce is too distant from current sender nonce", Said::NonceTooHigh),
            ("besu", -32000, "Replacement transaction underpriced", Said::ReplacementUnderpriced),
            ("besu", -32009, "Gas price below configured minimum gas price", Said::Underpriced),
            ("besu", -32009, "Gas price below current base fee", Said::Underpriced),
            ("besu", -32004, "Upfront cost exceeds account balance", Said::InsufficientFunds),
            ("besu", -32003, "Intrinsic gas exceeds gas limit", Said::GasLimit),
            ("besu", -32005, "Transaction gas limit exceeds block gas limit", Said::GasLimit),
            ("besu", -32000, "Transaction fee cap exceeded", Said::FeeCap),
            ("besu", -32000, "Execution reverted", Said::Reverted),
            ("besu", -32603, "Timeout expired", Said::TimedOut),
            ("reth", -32000, "already known", Said::AlreadyKnown),
            ("reth", -32000, "nonce too low: next nonce 2, tx nonce 1", Said::NonceTooLow),
            ("reth", -32000, "transaction underpriced", Said::Underpriced),
            ("reth", -32003, "txpool is full", Said::PoolFull),
            (
                "reth",
                -32003,
                "insufficient funds for gas * price + value: have 0 want 1000009876132000",
                Said::InsufficientFunds,
            ),
            ("infura", -32005, "daily request count exceeded, request rate limited", Said::RateLimited),
            ("alchemy", 429, "Your app has exceeded its compute units per second capacity", Said::RateLimited),
            ("a proxy", -32000, "Rate limit exceeded", Said::RateLimited),
            ("a proxy", -32000, "Too Many Requests", Said::RateLimited),
            ("geth", -32602, "exceed maximum block range: 5000", Said::TooMuch),
            ("reth", -32602, "query exceeds max block range 100000", Said::TooMuch),
            ("reth", -32602, "query exceeds max results 20000, retry with the range 100-200", Said::TooMuch),
            ("besu", -32005, "Requested range exceeds maximum RPC range limit", Said::TooMuch),
            (
                "infura",
                -32005,
                "query returned more than 10000 results. Try with this block range [0x64, 0xc8].",
                Said::TooMuch,
            ),
            (
                "alchemy",
                -32602,
                "Log response size exceeded. this block range should work: [0x64, 0xc8]",
                Said::TooMuch,
            ),
            ("quicknode", -32614, "eth_getLogs is limited to a 10,000 range", Said::TooMuch),
            ("nobody", -32000, "the moon is full", Said::Unknown),
        ];
        for (client, code, message, expected) in table {
            let error = TransportError::ErrorResp(payload(code, message));
            assert_eq!(Said::of(&error), expected, "{client}: {message}");
        }
    }

    #[test]
    fn what_is_no_answer_is_told_apart() {
        assert_eq!(Said::of(&TransportErrorKind::http_error(429, "slow down".into())), Said::RateLimited);
        assert_eq!(Said::of(&TransportErrorKind::http_error(502, "bad gateway".into())), Said::NotAnswered);
        assert_eq!(Said::of(&TransportErrorKind::custom_str("no node can be asked")), Said::NotAnswered);
        assert_eq!(Said::of(&TransportError::NullResp), Said::NotAnswered);
    }

    #[test]
    fn no_words_of_the_table_are_hidden_by_earlier_ones() {
        for (at, (words, _)) in WORDS.iter().enumerate() {
            assert_eq!(*words, words.to_lowercase());
            let hidden = WORDS.iter().take(at).find(|(earlier, _)| words.contains(earlier));
            assert!(hidden.is_none(), "{words:?} never counts, {hidden:?} comes before it");
        }
    }
}
