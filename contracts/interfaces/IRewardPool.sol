// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {ProvenanceEvent} from "./ProvenanceEvent.sol";

/// @notice A sponsor's budget for one kind of submission.
struct Task {
    /// Payment-token units left.
    uint128 escrow;
    /// Payment-token units for each accepted submission.
    uint128 price;
    address provider;
    /// Unix seconds. SETTLEMENT_GRACE later the sponsor may take back what is left; batches may debit what is there, however late.
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

/// @notice An EIP-3009 authorisation of the payer for the called contract over exactly the amount that the call takes.
/// Its EIP-3009 nonce is not chosen: it is the hash that the called function names, over what is paid for and `salt`, with
/// the last 64 bits 0. So nobody can spend an authorisation on something else.
struct Authorization {
    uint256 validAfter;
    uint256 validBefore;
    bytes32 salt;
    uint8 v;
    bytes32 r;
    bytes32 s;
}

/// @notice One wallet reward to claim, as in `claim`.
struct Claim {
    address provider;
    uint64 number;
    ProvenanceEvent e;
    bytes32[] proof;
}

/// @title Holds the sponsors' escrow, the wallet rewards of anchored batches and the points that treasuries have yet to fetch.
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
    event TaskRefunded(uint64 indexed taskId, address indexed sponsor, uint128 amount);
    event RewardClaimed(
        address indexed provider,
        uint64 indexed number,
        address indexed payee,
        uint32 index,
        bytes16 dataId,
        uint128 amount
    );
    /// An unpaid wallet reward went to Disputes.
    event RewardHeld(address indexed provider, uint64 indexed number, uint32 index, uint128 amount);
    event PointsSwept(address indexed provider, address pointsTreasury, uint96 amount);

    error OnlyDisputes(address caller);
    error OnlySponsor(address sponsor, address caller);
    error ProviderUnknown(address provider);
    error TaskUnknown(uint64 taskId);
    error TaskOpenUntil(uint64 taskId, uint64 closesAt);
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
    error NotAccepted(bytes16 dataId, uint8 kind);
    error AlreadyClaimed(address provider, uint64 number, uint32 index);
    error ClaimTooEarly(address provider, uint64 number, uint64 challengeUntil);
    error PointsExceeded(address provider, uint256 accrued);
    error BatchRewardsExceeded(address provider, uint64 number, uint128 left, uint128 amount);

    /// @notice Publishes a task and escrows `amount`, which may be 0, of the provider's token, with an allowance given before.
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

    /// @notice Adds to a task's escrow; anyone may, also after it closed, for a batch that comes late.
    function fundTask(uint64 taskId, uint128 amount) external;

    /// @notice Adds to a task's escrow with an EIP-2612 permit.
    function fundTaskWithPermit(uint64 taskId, uint128 amount, Permit calldata permit) external;

    /// @notice Adds to a task's escrow with an EIP-3009 authorisation of `from`; anyone may send it.
    /// The nonce's hash is keccak256(abi.encode(keccak256("fundTask"), taskId, salt)).
    function fundTaskWithAuthorization(
        uint64 taskId,
        uint128 amount,
        address from,
        Authorization calldata authorization
    ) external;

    /// @notice Returns what is left of a closed task to its sponsor.
    function refundTask(uint64 taskId) external;

    /// @notice Pays one wallet reward to its payee; anyone may send it, once the batch's challenge window is over.
    function claim(address provider, uint64 number, ProvenanceEvent calldata e, bytes32[] calldata proof) external;

    /// @notice Pays many; neighbours with one payee and one token share a transfer. What is already claimed is skipped, so
    /// that nobody can spoil a call by claiming a part of it first; anything else that is wrong reverts all.
    function claimMany(Claim[] calldata claims) external;

    /// @notice Sends the provider's accrued points to its treasury; anyone may. 0 accrued does nothing.
    function sweepPoints(address provider) external returns (uint96 amount);

    /// @notice Takes an unpaid wallet reward out of a batch inside its challenge window. Only Disputes, which has checked the proof.
    function hold(address provider, uint64 number, uint32 index, uint128 amount) external;

    /// @notice Seconds after closesAt in which the escrow is bound, so that submissions made in time are settled.
    function SETTLEMENT_GRACE() external view returns (uint64);
    function taskOf(uint64 taskId) external view returns (Task memory);
    function taskCount() external view returns (uint64);
    function isClaimed(address provider, uint64 number, uint32 index) external view returns (bool);

    /// @notice Wallet rewards of a batch that are still unclaimed.
    function unclaimedOf(address provider, uint64 number) external view returns (uint128);
}
