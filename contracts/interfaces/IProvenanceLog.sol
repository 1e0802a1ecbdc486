// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {IRewardPool} from "./IRewardPool.sol";
import {ProvenanceEvent} from "./ProvenanceEvent.sol";

/// @notice What a batch takes out of one task's escrow.
struct TaskDebit {
    uint64 taskId;
    uint128 amount;
}

/// @notice The header of a batch; its manifest holds the events.
struct Batch {
    address provider;
    /// The provider's next one, from 0.
    uint64 number;
    bytes32 root;
    uint32 eventCount;
    /// Payment-token units that go to the provider's points treasury.
    uint128 pointsTotal;
    /// Payment-token units that back wallet claims of this batch only.
    uint128 walletTotal;
    /// Ascending by taskId, each once; their sum is pointsTotal + walletTotal.
    TaskDebit[] debits;
    /// Binary CIDv1 of the Parquet manifest.
    bytes manifestCid;
}

/// @notice An app that collects data.
struct Provider {
    /// Signs verdicts, batches and dataset versions: an account, or a contract that answers ERC-1271.
    address attestor;
    /// The number that the provider's next batch must have.
    uint64 nextBatch;
    /// Seconds after anchoring in which a batch's verdicts may be challenged and its wallet rewards wait; see Disputes.
    uint32 challengeWindow;
    /// Receives the points share of rewards and sales; see PointsTreasury.
    address pointsTreasury;
    /// Payment-token units of points that wait in the log for sweepPoints.
    uint96 pointsAccrued;
    /// The one ERC-20 in which this provider's tasks, rewards and points are counted.
    address token;
}

/// @title Append-only log of batches, one gapless sequence a provider; the reward pool is a part of it.
interface IProvenanceLog is IRewardPool {
    event ProviderRegistered(
        address indexed provider, string name, address attestor, address pointsTreasury, address token
    );
    event AttestorChanged(address indexed provider, address attestor);
    event ChallengeWindowChanged(address indexed provider, uint32 challengeWindow);
    event BatchAnchored(
        address indexed provider,
        uint64 indexed number,
        bytes32 indexed root,
        uint32 eventCount,
        uint128 pointsTotal,
        uint128 walletTotal,
        TaskDebit[] debits,
        bytes manifestCid,
        address attestor,
        uint64 challengeUntil
    );

    error ProviderExists(address provider);
    error NameInvalid(string name);
    error NameTaken(string name);
    error AddressZero();
    error ChallengeWindowTooLong(uint32 challengeWindow, uint32 longest);
    /// The treasury was made for another log, provider or token.
    error TreasuryMismatch(address pointsTreasury);
    error BatchNumberUnexpected(address provider, uint64 expected, uint64 actual);
    error BatchEmpty();
    error RootZero();
    error ManifestCidInvalid(uint256 length);
    error AttestationInvalid(address attestor, bytes32 digest);

    /// @notice Registers the caller as a provider. The name is 2–32 characters of a–z, 0–9 and "-", first come, first served.
    /// The token and the treasury can't be changed later.
    /// @param pointsTreasury A PointsTreasury of this log, for the caller and the token.
    /// @param challengeWindow Seconds, at most 30 days; 0: nothing can be challenged and rewards are paid at once.
    function registerProvider(
        string calldata name,
        address attestor,
        address pointsTreasury,
        address token,
        uint32 challengeWindow
    ) external;

    /// @notice Rotates the caller's attestor. What the old one signed and had not anchored is refused from then on.
    function setAttestor(address attestor) external;

    /// @notice Sets the challenge window of the caller's later batches; those already anchored keep theirs.
    function setChallengeWindow(uint32 challengeWindow) external;

    /// @notice Stops and resumes anchoring, and nothing else; only for the authority's role.
    function pause() external;
    function unpause() external;

    /// @notice Anchors a batch signed by the provider's attestor; anyone may send it. Gas does not depend on eventCount.
    /// @param signature EIP-712 over `batch`: 65-byte ECDSA, or whatever the attestor's ERC-1271 takes.
    function anchor(Batch calldata batch, bytes calldata signature) external;

    function providerOf(address provider) external view returns (Provider memory);

    /// @notice Where the provider's money is counted: its token and the treasury behind its points; 0 where there is no provider.
    function settlementOf(address provider) external view returns (address token, address pointsTreasury);

    /// @notice The provider that holds a name, 0 where none.
    function providerNamed(string calldata name) external view returns (address);

    /// @notice Root of an anchored batch, 0 where there is none.
    function rootOf(address provider, uint64 number) external view returns (bytes32);

    /// @notice Unix seconds until which a batch's verdicts may be challenged and its wallet rewards wait; 0 where there is no batch.
    function challengeUntilOf(address provider, uint64 number) external view returns (uint64);

    /// @notice Leaf of an event.
    function leafOf(ProvenanceEvent calldata e) external pure returns (bytes32);

    /// @notice Whether the event is in that batch.
    function contains(address provider, uint64 number, ProvenanceEvent calldata e, bytes32[] calldata proof)
        external
        view
        returns (bool);

    /// @notice EIP-712 digest that the attestor signs.
    function digestOf(Batch calldata batch) external view returns (bytes32);

    /// @notice Where this log's verdicts are challenged; deployed by the log itself.
    function disputes() external view returns (address);
}
