// SPDX-License-Identifier: MIT OR Apache-2.0
// Holds the sponsors' escrow, the wallet rewards of anchored batches and accrued points, and pays them out.
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {BitMaps} from "@openzeppelin/contracts/utils/structs/BitMaps.sol";
import {MerkleProofLib} from "solady/src/utils/MerkleProofLib.sol";
import {Batch, Provider, ProvenanceEvent, TaskDebit} from "../interfaces/IProvenanceLog.sol";
import {Authorization, Claim, IRewardPool, Permit, Task} from "../interfaces/IRewardPool.sol";
import {Leaves} from "./Leaves.sol";
import {LogStorage} from "./LogStorage.sol";
import {TokenIntake} from "./TokenIntake.sol";

abstract contract RewardPool is IRewardPool, LogStorage, ReentrancyGuardTransient {
    using BitMaps for BitMaps.BitMap;
    using Leaves for ProvenanceEvent;
    using SafeERC20 for IERC20;
    using TokenIntake for IERC20;

    /* CONSTANTS */

    /// @inheritdoc IRewardPool
    uint64 public constant SETTLEMENT_GRACE = 7 days;
    bytes32 private constant FUND_TASK = keccak256("fundTask");
    uint8 private constant KIND_ACCEPTED = 1;
    /// @dev A batch has fewer than 2^32 events. What is claimed must fit into a challenge, which copies the proof, as well.
    uint256 private constant PROOF_LENGTH_MAX = 32;

    /* STORAGE */

    /// @inheritdoc IRewardPool
    uint64 public taskCount;
    mapping(uint64 taskId => Task) private _tasks;

    /* TASKS */

    /// @inheritdoc IRewardPool
    function createTask(
        address provider,
        uint128 price,
        uint64 closesAt,
        bytes32 termsHash,
        string calldata uri,
        uint128 amount
    ) external nonReentrant returns (uint64 taskId) {
        return _createTask(provider, price, closesAt, termsHash, uri, amount);
    }

    /// @inheritdoc IRewardPool
    function createTaskWithPermit(
        address provider,
        uint128 price,
        uint64 closesAt,
        bytes32 termsHash,
        string calldata uri,
        uint128 amount,
        Permit calldata permit
    ) external nonReentrant returns (uint64 taskId) {
        _knownTokenOf(provider).tryPermit(amount, permit);
        return _createTask(provider, price, closesAt, termsHash, uri, amount);
    }

    /// @inheritdoc IRewardPool
    function fundTask(uint64 taskId, uint128 amount) external nonReentrant {
        _fund(taskId, _tokenOf(_knownTask(taskId).provider), amount);
    }

    /// @inheritdoc IRewardPool
    function fundTaskWithPermit(uint64 taskId, uint128 amount, Permit calldata permit) external nonReentrant {
        IERC20 token = _tokenOf(_knownTask(taskId).provider);
        token.tryPermit(amount, permit);
        _fund(taskId, token, amount);
    }

    /// @inheritdoc IRewardPool
    function fundTaskWithAuthorization(
        uint64 taskId,
        uint128 amount,
        address from,
        Authorization calldata authorization
    ) external nonReentrant {
        IERC20 token = _tokenOf(_knownTask(taskId).provider);
        _credit(taskId, from, amount);
        bytes32 purpose = keccak256(abi.encode(FUND_TASK, taskId, authorization.salt));
        _requireReceived(amount, token.pullAuthorized(from, amount, purpose, authorization));
    }

    /// @inheritdoc IRewardPool
    function refundTask(uint64 taskId) external nonReentrant {
        Task storage task = _knownTask(taskId);
        (address sponsor, uint64 closesAt) = (task.sponsor, task.closesAt);
        require(sponsor == msg.sender, OnlySponsor(sponsor, msg.sender));
        require(block.timestamp > uint256(closesAt) + SETTLEMENT_GRACE, TaskOpenUntil(taskId, closesAt));
        uint128 amount = task.escrow;
        require(amount > 0, AmountZero());

        task.escrow = 0;
        emit TaskRefunded(taskId, sponsor, amount);
        _tokenOf(task.provider).safeTransfer(sponsor, amount);
    }

    /* REWARDS */

    /// @inheritdoc IRewardPool
    function claim(address provider, uint64 number, ProvenanceEvent calldata e, bytes32[] calldata proof)
        external
        nonReentrant
    {
        require(_take(provider, number, e, proof), AlreadyClaimed(provider, number, e.index));
        _tokenOf(provider).safeTransfer(e.payee, e.reward);
    }

    /// @inheritdoc IRewardPool
    function claimMany(Claim[] calldata claims) external nonReentrant {
        (address token, address payee) = (address(0), address(0));
        uint256 due = 0;
        for (uint256 i = 0; i < claims.length; ++i) {
            Claim calldata c = claims[i];
            if (!_take(c.provider, c.number, c.e, c.proof)) continue;
            address itsToken = address(_tokenOf(c.provider));
            if (due > 0 && (itsToken != token || c.e.payee != payee)) {
                IERC20(token).safeTransfer(payee, due);
                due = 0;
            }
            (token, payee) = (itsToken, c.e.payee);
            due += c.e.reward;
        }
        if (due > 0) IERC20(token).safeTransfer(payee, due);
    }

    /// @inheritdoc IRewardPool
    function sweepPoints(address provider) external nonReentrant returns (uint96 amount) {
        Provider storage account = _providers[provider];
        (address treasury, IERC20 token) = (account.pointsTreasury, _knownTokenOf(provider));
        amount = account.pointsAccrued;
        if (amount == 0) return 0;

        account.pointsAccrued = 0;
        emit PointsSwept(provider, treasury, amount);
        token.safeTransfer(treasury, amount);
    }

    /// @inheritdoc IRewardPool
    function hold(address provider, uint64 number, uint32 index, uint128 amount) external nonReentrant {
        _onlyDisputes();
        BatchRecord storage batch = _batches[provider][number];
        uint128 left = batch.left;
        require(!batch.claimed.get(index), AlreadyClaimed(provider, number, index));
        require(left >= amount, BatchRewardsExceeded(provider, number, left, amount));

        batch.claimed.set(index);
        batch.left = left - amount;
        emit RewardHeld(provider, number, index, amount);
        _tokenOf(provider).safeTransfer(msg.sender, amount);
    }

    /* VIEWS */

    /// @inheritdoc IRewardPool
    function taskOf(uint64 taskId) external view returns (Task memory) {
        return _tasks[taskId];
    }

    /// @inheritdoc IRewardPool
    function isClaimed(address provider, uint64 number, uint32 index) external view returns (bool) {
        return _batches[provider][number].claimed.get(index);
    }

    /// @inheritdoc IRewardPool
    function unclaimedOf(address provider, uint64 number) external view returns (uint128) {
        return _batches[provider][number].left;
    }

    /* INTERNAL */

    /// @dev Reverts for anyone but the log's Disputes.
    function _onlyDisputes() internal view virtual;

    /// @dev Debits the tasks and accrues the points of a batch whose record is written.
    function _settle(Batch calldata batch) internal {
        uint256 debited = 0;
        uint64 previousTaskId = 0;
        for (uint256 i = 0; i < batch.debits.length; ++i) {
            TaskDebit calldata debit = batch.debits[i];
            require(debit.taskId > previousTaskId, DebitsUnordered(previousTaskId, debit.taskId));
            _debit(debit, batch.provider);
            debited += debit.amount;
            previousTaskId = debit.taskId;
        }
        uint256 totals = uint256(batch.pointsTotal) + batch.walletTotal;
        require(debited == totals, DebitsDiffer(debited, totals));

        if (batch.pointsTotal > 0) {
            Provider storage provider = _providers[batch.provider];
            uint256 accrued = uint256(provider.pointsAccrued) + batch.pointsTotal;
            require(accrued <= type(uint96).max, PointsExceeded(batch.provider, accrued));
            // forge-lint: disable-next-line(unsafe-typecast)
            provider.pointsAccrued = uint96(accrued);
        }
    }

    function _debit(TaskDebit calldata debit, address provider) private {
        uint64 taskId = debit.taskId;
        uint128 amount = debit.amount;
        Task storage task = _knownTask(taskId);
        require(task.provider == provider, TaskOfOtherProvider(taskId, task.provider, provider));
        require(amount > 0, AmountZero());
        (uint128 escrow, uint128 price) = (task.escrow, task.price);
        require(amount % price == 0, DebitNotMultipleOfPrice(taskId, price, amount));
        require(amount <= escrow, BudgetExceeded(taskId, escrow, amount));

        task.escrow = escrow - amount;
    }

    /// @dev Takes one wallet reward out of its batch; false where it was taken before.
    function _take(address provider, uint64 number, ProvenanceEvent calldata e, bytes32[] calldata proof)
        private
        returns (bool)
    {
        (uint128 amount, uint32 index) = (e.reward, e.index);
        require(amount > 0, RewardZero(e.dataId));
        require(e.payee != address(0), PaidInPoints(e.dataId));
        // What no challenge can be about is not paid.
        require(e.kind == KIND_ACCEPTED, NotAccepted(e.dataId, e.kind));
        BatchRecord storage batch = _batches[provider][number];
        bytes32 root = batch.root;
        require(
            root != 0 && proof.length <= PROOF_LENGTH_MAX && MerkleProofLib.verifyCalldata(proof, root, e.ofEvent()),
            ProofInvalid(provider, number, index)
        );
        if (batch.claimed.get(index)) return false;
        (uint128 left, uint64 challengeUntil) = (batch.left, batch.challengeUntil);
        require(block.timestamp >= challengeUntil, ClaimTooEarly(provider, number, challengeUntil));
        require(left >= amount, BatchRewardsExceeded(provider, number, left, amount));

        batch.claimed.set(index);
        batch.left = left - amount;
        emit RewardClaimed(provider, number, e.payee, index, e.dataId, amount);
        return true;
    }

    function _createTask(
        address provider,
        uint128 price,
        uint64 closesAt,
        bytes32 termsHash,
        string calldata uri,
        uint128 amount
    ) private returns (uint64 taskId) {
        require(price > 0, PriceZero());
        require(closesAt > block.timestamp, ClosesAtPast(closesAt));
        IERC20 token = _knownTokenOf(provider);

        taskId = ++taskCount;
        _tasks[taskId] = Task({escrow: 0, price: price, provider: provider, closesAt: closesAt, sponsor: msg.sender});
        emit TaskCreated(taskId, provider, msg.sender, price, closesAt, termsHash, uri);
        if (amount > 0) _fund(taskId, token, amount);
    }

    function _fund(uint64 taskId, IERC20 token, uint128 amount) private {
        _credit(taskId, msg.sender, amount);
        _requireReceived(amount, token.pull(msg.sender, amount));
    }

    function _requireReceived(uint256 amount, uint256 received) private pure {
        require(received == amount, AmountReceivedDiffers(amount, received));
    }

    function _credit(uint64 taskId, address from, uint128 amount) private {
        require(amount > 0, AmountZero());

        _tasks[taskId].escrow += amount;
        emit TaskFunded(taskId, from, amount);
    }

    /// @dev Funded and debited however late: what was accepted in time stays owed, and a batch that could never be anchored
    /// would hold up all that follow.
    function _knownTask(uint64 taskId) private view returns (Task storage task) {
        task = _tasks[taskId];
        require(task.provider != address(0), TaskUnknown(taskId));
    }

    function _knownTokenOf(address provider) private view returns (IERC20 token) {
        token = _tokenOf(provider);
        require(address(token) != address(0), ProviderUnknown(provider));
    }
}
