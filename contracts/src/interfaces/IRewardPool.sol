// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {Batch, ProvenanceEvent} from "./IProvenanceLog.sol";

/// @notice A sponsor's budget for one kind of submission.
struct Task {
    /// Payment-token units left.
    uint128 escrow;
    /// Payment-token units for each accepted submission.
    uint128 price;
    address provider;
    /// Unix seconds. Batches may debit until then and SETTLEMENT_GRACE longer; afterwards the sponsor may take back what is left.
    uint64 closesAt;
    address sponsor;
}

/// @notice An EIP-2612 permit of the caller for the called contract.
struct Permit {
    uint256 deadline;
    uint8 v;
    bytes32 r;
    bytes32 s;
}

/// @title Holds the sponsors' escrow and the wallet rewards of anchored batches.
interface IRewardPool {
    event TaskCreated(
        uint64 indexed taskId,
        address indexed provider,
        address indexed sponsor,
        uint128 price,
        uint64 closesAt,
        bytes32 termsHash,
        string uri
    );
    event TaskFunded(uint64 indexed taskId, address indexed from, uint128 amount);
    event TaskDebited(uint64 indexed taskId, address indexed provider, uint64 indexed number, uint128 amount);
    event TaskRefunded(uint64 indexed taskId, address indexed sponsor, uint128 amount);
    event RewardClaimed(
        address indexed provider,
        uint64 indexed number,
        address indexed payee,
        uint32 index,
        bytes16 dataId,
        uint128 amount
    );

    error OnlyLog(address caller);
    error OnlySponsor(address sponsor, address caller);
    error ProviderUnknown(address provider);
    error TaskUnknown(uint64 taskId);
    error TaskOpenUntil(uint64 taskId, uint64 closesAt);
    error TaskClosed(uint64 taskId, uint64 closesAt);
    error TaskOfOtherProvider(uint64 taskId, address taskProvider, address batchProvider);
    error PriceZero();
    error ClosesAtPast(uint64 closesAt);
    error AmountZero();
    error AmountReceivedDiffers(uint256 expected, uint256 received);
    error BudgetExceeded(uint64 taskId, uint128 escrow, uint128 amount);
    error DebitNotMultipleOfPrice(uint64 taskId, uint128 price, uint128 amount);
    error DebitsUnordered(uint64 previousTaskId, uint64 taskId);
    error DebitsDiffer(uint256 debits, uint256 totals);
    error ProofInvalid(address provider, uint64 number, uint32 index);
    error PaidInPoints(bytes16 dataId);
    error RewardZero(bytes16 dataId);
    error AlreadyClaimed(address provider, uint64 number, uint32 index);
    error BatchRewardsExceeded(address provider, uint64 number, uint128 left, uint128 amount);

    /// @notice Publishes a task and escrows `amount` of the provider's token for it, with an allowance given before.
    /// @param termsHash SHA-256 of the task's description at `uri`.
    function createTask(
        address provider,
        uint128 price,
        uint64 closesAt,
        bytes32 termsHash,
        string calldata uri,
        uint128 amount
    ) external returns (uint64 taskId);

    /// @notice The same with an EIP-2612 permit.
    function createTaskWithPermit(
        address provider,
        uint128 price,
        uint64 closesAt,
        bytes32 termsHash,
        string calldata uri,
        uint128 amount,
        Permit calldata permit
    ) external returns (uint64 taskId);

    /// @notice Adds to a task's escrow; anyone may.
    function fundTask(uint64 taskId, uint128 amount) external;

    /// @notice Adds to a task's escrow with an EIP-2612 permit.
    function fundTaskWithPermit(uint64 taskId, uint128 amount, Permit calldata permit) external;

    /// @notice Returns what is left of a closed task to its sponsor.
    function refundTask(uint64 taskId) external;

    /// @notice Debits the tasks, pays the points treasury, sets the wallet total aside. Only the log, inside `anchor`.
    function settle(Batch calldata batch, address pointsTreasury, address token) external;

    /// @notice Pays one wallet reward to its payee; anyone may send it.
    function claim(address provider, uint64 number, ProvenanceEvent calldata e, bytes32[] calldata proof) external;

    /// @notice Seconds after closesAt in which submissions made in time may still be settled.
    function SETTLEMENT_GRACE() external view returns (uint64);
    function taskOf(uint64 taskId) external view returns (Task memory);
    function taskCount() external view returns (uint64);
    function isClaimed(address provider, uint64 number, uint32 index) external view returns (bool);

    /// @notice Wallet rewards of a batch that are still unclaimed.
    function unclaimedOf(address provider, uint64 number) external view returns (uint128);
}
