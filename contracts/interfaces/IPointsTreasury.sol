// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

/// @notice One account's part of a payout.
struct PointsDebit {
    /// keccak256 of the payout's id and the account: never settled twice.
    bytes32 payoutId;
    /// The points account: the per-record pseudonym.
    bytes32 account;
    /// Payment-token units.
    uint128 amount;
}

/// @title Holds the tokens that back one provider's points, and lets them out only against published debits.
/// So at every block backing() ≥ sum of all points accounts, as long as the operator redeems no more than the accounts hold:
/// the debits are public, and every indexer shows where they exceed an account.
interface IPointsTreasury {
    event PointsRedeemed(bytes32 indexed payoutId, bytes32 indexed account, uint128 amount, address to);
    event OperatorChanged(address operator);

    error OnlyProvider(address caller);
    error OnlyOperator(address caller);
    error AddressZero();
    error AmountZero(bytes32 payoutId);
    error AlreadyRedeemed(bytes32 payoutId);
    error DebitsEmpty();

    /// @notice Sends the sum of the debits to `to`, the payout rail's settlement account, and publishes each debit.
    /// Sweeps the provider's accrued points out of the log first where the treasury holds too little.
    function redeem(PointsDebit[] calldata debits, address to) external;

    /// @notice Names the account that may redeem; only the provider.
    function setOperator(address operator) external;

    /// @notice Payment-token units behind the points: what the treasury holds and what the log has accrued for it.
    function backing() external view returns (uint256);

    function log() external view returns (address);
    function provider() external view returns (address);
    function operator() external view returns (address);
    function token() external view returns (address);
    function isRedeemed(bytes32 payoutId) external view returns (bool);
}
