// SPDX-License-Identifier: MIT OR Apache-2.0
// Holds the sponsors' escrow and the wallet rewards of anchored batches, and pays them out.
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {BitMaps} from "@openzeppelin/contracts/utils/structs/BitMaps.sol";
import {Batch, IProvenanceLog, ProvenanceEvent, TaskDebit} from "./interfaces/IProvenanceLog.sol";
import {IRewardPool, Permit, Task} from "./interfaces/IRewardPool.sol";
import {TokenIntake} from "./TokenIntake.sol";

contract RewardPool is IRewardPool, ReentrancyGuardTransient {
    using BitMaps for BitMaps.BitMap;
    using SafeERC20 for IERC20;
    using TokenIntake for IERC20;

    /* CONSTANTS */

    /// @inheritdoc IRewardPool
    uint64 public constant SETTLEMENT_GRACE = 7 days;

    IProvenanceLog private immutable LOG;

    /* STORAGE */

    uint64 private _taskCount;
    mapping(uint64 taskId => Task) private _tasks;
    mapping(address provider => mapping(uint64 number => uint128 amount)) private _unclaimed;
    mapping(address provider => mapping(uint64 number => BitMaps.BitMap indexes)) private _claimed;

    constructor(IProvenanceLog log) {
        LOG = log;
    }

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
        _tokenOf(provider).tryPermit(amount, permit);
        return _createTask(provider, price, closesAt, termsHash, uri, amount);
    }

    /// @inheritdoc IRewardPool
    function fundTask(uint64 taskId, uint128 amount) external nonReentrant {
        _fund(taskId, _tokenOf(_openTask(taskId).provider), amount);
    }

    /// @inheritdoc IRewardPool
    function fundTaskWithPermit(uint64 taskId, uint128 amount, Permit calldata permit) external nonReentrant {
        IERC20 token = _tokenOf(_openTask(taskId).provider);
        token.tryPermit(amount, permit);
        _fund(taskId, token, amount);
    }

    /// @inheritdoc IRewardPool
    function refundTask(uint64 taskId) external nonReentrant {
        Task storage task = _tasks[taskId];
        address sponsor = task.sponsor;
        require(sponsor != address(0), TaskUnknown(taskId));
        require(sponsor == msg.sender, OnlySponsor(sponsor, msg.sender));
        require(_isPastGrace(task.closesAt), TaskOpenUntil(taskId, task.closesAt));
        uint128 amount = task.escrow;
        require(amount > 0, AmountZero());

        task.escrow = 0;
        emit TaskRefunded(taskId, sponsor, amount);
        _tokenOf(task.provider).safeTransfer(sponsor, amount);
    }

    /* BATCHES */

    /// @inheritdoc IRewardPool
    function settle(Batch calldata batch, address pointsTreasury, address token) external nonReentrant {
        require(msg.sender == address(LOG), OnlyLog(msg.sender));

        uint256 debited = 0;
        uint64 previousTaskId = 0;
        for (uint256 i = 0; i < batch.debits.length; ++i) {
            TaskDebit calldata debit = batch.debits[i];
            require(debit.taskId > previousTaskId, DebitsUnordered(previousTaskId, debit.taskId));
            _debit(debit, batch.provider, batch.number);
            debited += debit.amount;
            previousTaskId = debit.taskId;
        }
        uint256 totals = uint256(batch.pointsTotal) + batch.walletTotal;
        require(debited == totals, DebitsDiffer(debited, totals));

        if (batch.walletTotal > 0) _unclaimed[batch.provider][batch.number] = batch.walletTotal;
        if (batch.pointsTotal > 0) IERC20(token).safeTransfer(pointsTreasury, batch.pointsTotal);
    }

    /// @inheritdoc IRewardPool
    function claim(address provider, uint64 number, ProvenanceEvent calldata e, bytes32[] calldata proof)
        external
        nonReentrant
    {
        uint128 amount = e.reward;
        require(amount > 0, RewardZero(e.dataId));
        require(e.payee != address(0), PaidInPoints(e.dataId));
        require(LOG.contains(provider, number, e, proof), ProofInvalid(provider, number, e.index));
        BitMaps.BitMap storage claimed = _claimed[provider][number];
        require(!claimed.get(e.index), AlreadyClaimed(provider, number, e.index));
        uint128 left = _unclaimed[provider][number];
        require(left >= amount, BatchRewardsExceeded(provider, number, left, amount));

        claimed.set(e.index);
        _unclaimed[provider][number] = left - amount;
        emit RewardClaimed(provider, number, e.payee, e.index, e.dataId, amount);
        _tokenOf(provider).safeTransfer(e.payee, amount);
    }

    /* VIEWS */

    /// @inheritdoc IRewardPool
    function taskOf(uint64 taskId) external view returns (Task memory) {
        return _tasks[taskId];
    }

    /// @inheritdoc IRewardPool
    function taskCount() external view returns (uint64) {
        return _taskCount;
    }

    /// @inheritdoc IRewardPool
    function isClaimed(address provider, uint64 number, uint32 index) external view returns (bool) {
        return _claimed[provider][number].get(index);
    }

    /// @inheritdoc IRewardPool
    function unclaimedOf(address provider, uint64 number) external view returns (uint128) {
        return _unclaimed[provider][number];
    }

    /* INTERNAL */

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
        IERC20 token = _tokenOf(provider);

        taskId = ++_taskCount;
        _tasks[taskId] = Task({escrow: 0, price: price, provider: provider, closesAt: closesAt, sponsor: msg.sender});
        emit TaskCreated(taskId, provider, msg.sender, price, closesAt, termsHash, uri);
        _fund(taskId, token, amount);
    }

    function _fund(uint64 taskId, IERC20 token, uint128 amount) private {
        require(amount > 0, AmountZero());

        _tasks[taskId].escrow += amount;
        emit TaskFunded(taskId, msg.sender, amount);
        uint256 received = token.pull(msg.sender, amount);
        require(received == amount, AmountReceivedDiffers(amount, received));
    }

    function _debit(TaskDebit calldata debit, address provider, uint64 number) private {
        uint64 taskId = debit.taskId;
        uint128 amount = debit.amount;
        Task storage task = _openTask(taskId);
        require(task.provider == provider, TaskOfOtherProvider(taskId, task.provider, provider));
        require(amount > 0, AmountZero());
        (uint128 escrow, uint128 price) = (task.escrow, task.price);
        require(amount % price == 0, DebitNotMultipleOfPrice(taskId, price, amount));
        require(amount <= escrow, BudgetExceeded(taskId, escrow, amount));

        task.escrow = escrow - amount;
        emit TaskDebited(taskId, provider, number, amount);
    }

    /// @dev A task that batches may still debit.
    function _openTask(uint64 taskId) private view returns (Task storage task) {
        task = _tasks[taskId];
        require(task.provider != address(0), TaskUnknown(taskId));
        require(!_isPastGrace(task.closesAt), TaskClosed(taskId, task.closesAt));
    }

    function _isPastGrace(uint64 closesAt) private view returns (bool) {
        return block.timestamp > uint256(closesAt) + SETTLEMENT_GRACE;
    }

    function _tokenOf(address provider) private view returns (IERC20) {
        address token = LOG.providerOf(provider).token;
        require(token != address(0), ProviderUnknown(provider));
        return IERC20(token);
    }
}
