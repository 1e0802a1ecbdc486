// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {ProvenanceEvent} from "./IProvenanceLog.sol";

/// @notice Why a verdict is challenged.
enum Ground {
    /// The content was accepted before under another dataId.
    Duplicate,
    /// The content is not the contributor's to give.
    NotTheContributors,
    /// The content was accepted, or rejected, against the task's terms.
    WrongVerdict
}

enum DisputeState {
    None,
    Open,
    Upheld,
    Rejected,
    /// No ruling came in time.
    Lapsed
}

struct Dispute {
    DisputeState state;
    Ground ground;
    address provider;
    uint64 number;
    uint32 index;
    /// Unix seconds, exclusive: a ruling must come before.
    uint64 ruleBefore;
    address challenger;
    /// Who gets a held reward if the challenge fails; 0 where nothing is held.
    address payee;
    address token;
    /// The challenger's bond: the reward, or the task's price where the verdict paid none. It is also the bounty where the
    /// challenge is upheld.
    uint128 bond;
    /// Taken out of the batch until the end, payment-token units; 0 where the batch cannot pay the reward.
    uint128 held;
    /// What an upheld challenge refunds to the sponsor out of the attestor's bond: a reward that is not held, because it was
    /// paid in points or promised without backing; at most the price of the event's task and of the one that the arbiter names.
    uint128 refund;
}

/// @title Bonded challenges of verdicts, ruled by an arbiter, at the cost of the attestor's bond.
///
/// | end | held reward | challenger's bond | out of the attestor's bond, as far as it goes |
/// |---|---|---|---|
/// | upheld | to the sponsor | back | the sponsor's refund first, then the bounty for the challenger |
/// | rejected | to the payee | to the payee; where there is none, into the attestor's bond | nothing |
/// | lapsed | to the payee | back | nothing |
///
/// Money is credited, and anybody may have a credit paid out to its owner: no receiver can stop a ruling.
interface IDisputes {
    event BondDeposited(address indexed provider, address from, uint128 amount);
    event BondWithdrawalRequested(address indexed provider, uint128 amount, uint64 withdrawableAt);
    event BondWithdrawn(address indexed provider, uint128 amount);
    event DisputeOpened(
        uint256 indexed disputeId,
        address indexed provider,
        uint64 indexed number,
        uint32 index,
        bytes16 dataId,
        Ground ground,
        address challenger,
        uint128 bond,
        uint128 held,
        uint64 ruleBefore,
        bytes32 evidenceHash,
        string evidenceUri
    );
    /// @param sponsor Who got the held reward and the refund; 0 where the challenge was not upheld.
    event DisputeEnded(
        uint256 indexed disputeId,
        DisputeState state,
        address sponsor,
        uint128 refunded,
        uint128 bounty,
        string reason
    );
    event CreditPaid(address indexed token, address indexed account, uint256 amount);

    error ProviderUnknown(address provider);
    error AmountZero();
    error AmountReceivedDiffers(uint256 expected, uint256 received);
    error BondExceeded(uint128 bond, uint128 amount);
    error WithdrawalTooEarly(uint64 withdrawableAt);
    error DisputesOpen(uint256 count);
    error NotAVerdict(uint8 kind);
    error TaskUnknown(uint64 taskId);
    error ChallengeTooLate(address provider, uint64 number, uint64 challengeUntil);
    error ProofInvalid(address provider, uint64 number, uint32 index);
    error AlreadyDisputed(uint256 disputeId);
    error TextTooLong(uint256 length, uint256 longest);
    error DisputeNotOpen(uint256 disputeId, DisputeState state);
    error RulingTooLate(uint256 disputeId, uint64 ruleBefore);
    error RulingPending(uint256 disputeId, uint64 ruleBefore);

    /// @notice Adds to the bond that stands behind a provider's attestor, in the provider's token; anyone may.
    function depositBond(address provider, uint128 amount) external;

    /// @notice Announces that the caller, a provider, takes bond out; a new request replaces the one before. What is announced
    /// can still be slashed, but does not stand behind batches that are anchored later.
    function requestBondWithdrawal(uint128 amount) external;

    /// @notice Pays the requested bond out to the caller, or what slashing left of it; not while a dispute of its is open. Bond that
    /// is deposited after such a slashing is not a part of the request.
    function withdrawBond() external;

    /// @notice Challenges the verdict in an anchored event and escrows a bond, with an allowance given before.
    /// Only inside the batch's challenge window, once for each event. A wallet reward that its batch can pay waits here until the
    /// end.
    /// @param evidenceHash SHA-256 of what `evidenceUri` serves; the URI has at most 256 bytes.
    function challenge(
        address provider,
        uint64 number,
        ProvenanceEvent calldata e,
        bytes32[] calldata proof,
        Ground ground,
        bytes32 evidenceHash,
        string calldata evidenceUri
    ) external returns (uint256 disputeId);

    /// @notice Decides an open dispute; only for the authority's arbiter role.
    /// @param taskId Where upheld, the provider's task that the batch was debited for the event, whose sponsor is paid back:
    /// `BatchAnchored` has the batch's debits, and a dishonest attestor's event may name another task.
    /// @param reason At most 256 bytes.
    function rule(uint256 disputeId, bool upheld, uint64 taskId, string calldata reason) external;

    /// @notice Ends a dispute that nobody ruled on in time; anyone may.
    function lapse(uint256 disputeId) external;

    /// @notice Pays an account's credit out to it; anyone may.
    function payCredit(address token, address account) external returns (uint256 amount);

    /// @notice Seconds that an arbiter has.
    function RULING_PERIOD() external view returns (uint64);
    /// @notice Seconds that bond stays after a request: longer than any challenge window and ruling together.
    function UNBONDING_PERIOD() external view returns (uint64);
    function bondOf(address provider) external view returns (uint128);
    function withdrawalOf(address provider) external view returns (uint128 amount, uint64 withdrawableAt);
    function creditOf(address token, address account) external view returns (uint256);
    function openDisputesOf(address provider) external view returns (uint256);
    function disputeCount() external view returns (uint256);
    function disputeOf(uint256 disputeId) external view returns (Dispute memory);
    /// @notice The dispute about the event with that leaf in that batch; 0 where there is none.
    function disputeAbout(address provider, uint64 number, bytes32 leaf) external view returns (uint256);
}
