// SPDX-License-Identifier: MIT OR Apache-2.0
// Bonded challenges of verdicts: holds the bonds and the disputed rewards, and credits them as an arbiter rules.
pragma solidity ^0.8.28;

import {AccessManaged} from "@openzeppelin/contracts/access/manager/AccessManaged.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {ERC165} from "@openzeppelin/contracts/utils/introspection/ERC165.sol";
import {Dispute, DisputeState, Ground, IDisputes} from "../interfaces/IDisputes.sol";
import {IProvenanceLog, ProvenanceEvent} from "../interfaces/IProvenanceLog.sol";
import {Task} from "../interfaces/IRewardPool.sol";
import {Leaves} from "./Leaves.sol";
import {TokenIntake} from "./TokenIntake.sol";

contract Disputes is IDisputes, AccessManaged, ERC165, ReentrancyGuardTransient {
    using Leaves for ProvenanceEvent;
    using SafeERC20 for IERC20;
    using TokenIntake for IERC20;

    /* CONSTANTS */

    /// @inheritdoc IDisputes
    uint64 public constant RULING_PERIOD = 14 days;
    /// @inheritdoc IDisputes
    uint64 public constant UNBONDING_PERIOD = 60 days;
    uint8 private constant KIND_ACCEPTED = 1;
    uint8 private constant KIND_REJECTED = 2;
    uint256 private constant TEXT_LENGTH_MAX = 256;

    IProvenanceLog private immutable LOG;

    struct Withdrawal {
        uint128 amount;
        uint64 withdrawableAt;
    }

    /* STORAGE */

    /// @inheritdoc IDisputes
    uint256 public disputeCount;
    /// @inheritdoc IDisputes
    mapping(address provider => uint128) public bondOf;
    /// @inheritdoc IDisputes
    mapping(address provider => Withdrawal) public withdrawalOf;
    /// @inheritdoc IDisputes
    mapping(address token => mapping(address account => uint256)) public creditOf;
    /// @inheritdoc IDisputes
    mapping(address provider => mapping(uint64 number => mapping(bytes32 leaf => uint256))) public disputeAbout;
    /// @inheritdoc IDisputes
    mapping(address provider => uint256) public openDisputesOf;
    mapping(uint256 disputeId => Dispute) private _disputes;

    /// @param log Also the reward pool.
    /// @param authority_ An AccessManager: who rules.
    constructor(IProvenanceLog log, address authority_) AccessManaged(authority_) {
        LOG = log;
    }

    /* BONDS */

    /// @inheritdoc IDisputes
    function depositBond(address provider, uint128 amount) external nonReentrant {
        require(amount > 0, AmountZero());
        IERC20 token = _tokenOf(provider);

        bondOf[provider] += amount;
        emit BondDeposited(provider, msg.sender, amount);
        _pull(token, amount);
    }

    /// @inheritdoc IDisputes
    function requestBondWithdrawal(uint128 amount) external {
        require(amount > 0, AmountZero());
        uint128 bond = bondOf[msg.sender];
        require(amount <= bond, BondExceeded(bond, amount));

        uint64 withdrawableAt = uint64(block.timestamp) + UNBONDING_PERIOD;
        withdrawalOf[msg.sender] = Withdrawal({amount: amount, withdrawableAt: withdrawableAt});
        emit BondWithdrawalRequested(msg.sender, amount, withdrawableAt);
    }

    /// @inheritdoc IDisputes
    function withdrawBond() external nonReentrant {
        Withdrawal memory request = withdrawalOf[msg.sender];
        uint128 bond = bondOf[msg.sender];
        uint128 amount = request.amount < bond ? request.amount : bond;
        require(amount > 0, AmountZero());
        require(block.timestamp >= request.withdrawableAt, WithdrawalTooEarly(request.withdrawableAt));
        require(openDisputesOf[msg.sender] == 0, DisputesOpen(openDisputesOf[msg.sender]));

        delete withdrawalOf[msg.sender];
        bondOf[msg.sender] = bond - amount;
        emit BondWithdrawn(msg.sender, amount);
        _tokenOf(msg.sender).safeTransfer(msg.sender, amount);
    }

    /* DISPUTES */

    /// @inheritdoc IDisputes
    function challenge(
        address provider,
        uint64 number,
        ProvenanceEvent calldata e,
        bytes32[] calldata proof,
        Ground ground,
        bytes32 evidenceHash,
        string calldata evidenceUri
    ) external nonReentrant returns (uint256 disputeId) {
        require(e.kind == KIND_ACCEPTED || e.kind == KIND_REJECTED, NotAVerdict(e.kind));
        require(bytes(evidenceUri).length <= TEXT_LENGTH_MAX, TextTooLong(bytes(evidenceUri).length, TEXT_LENGTH_MAX));
        uint64 challengeUntil = LOG.challengeUntilOf(provider, number);
        require(block.timestamp < challengeUntil, ChallengeTooLate(provider, number, challengeUntil));
        require(LOG.contains(provider, number, e, proof), ProofInvalid(provider, number, e.index));
        bytes32 leaf = e.ofEvent();
        uint256 about = disputeAbout[provider][number][leaf];
        require(about == 0, AlreadyDisputed(about));

        disputeId = ++disputeCount;
        disputeAbout[provider][number][leaf] = disputeId;
        ++openDisputesOf[provider];
        Dispute memory dispute = _disputeOver(provider, number, e, ground);
        _disputes[disputeId] = dispute;
        _emitOpened(disputeId, dispute, e.dataId, evidenceHash, evidenceUri);
        _pull(IERC20(dispute.token), dispute.bond);
        if (dispute.held > 0) LOG.hold(provider, number, e.index, dispute.held);
    }

    /// @inheritdoc IDisputes
    function rule(uint256 disputeId, bool upheld, uint64 taskId, string calldata reason) external restricted {
        require(bytes(reason).length <= TEXT_LENGTH_MAX, TextTooLong(bytes(reason).length, TEXT_LENGTH_MAX));
        Dispute storage dispute = _open(disputeId);
        require(block.timestamp < dispute.ruleBefore, RulingTooLate(disputeId, dispute.ruleBefore));

        (address token, address provider, uint128 bond) = (dispute.token, dispute.provider, dispute.bond);
        if (upheld) {
            Task memory task = LOG.taskOf(taskId);
            require(task.provider == provider, TaskUnknown(taskId));
            uint128 owed = dispute.refund < task.price ? dispute.refund : task.price;
            uint128 refund = _slash(provider, token, task.sponsor, owed);
            creditOf[token][task.sponsor] += dispute.held;
            uint128 bounty = _slash(provider, token, dispute.challenger, bond);
            creditOf[token][dispute.challenger] += bond;
            _end(disputeId, DisputeState.Upheld, task.sponsor, refund, bounty, reason);
        } else {
            address payee = dispute.payee;
            if (payee != address(0)) {
                creditOf[token][payee] += uint256(dispute.held) + bond;
            } else {
                bondOf[provider] += bond;
            }
            _end(disputeId, DisputeState.Rejected, address(0), 0, 0, reason);
        }
    }

    /// @inheritdoc IDisputes
    function lapse(uint256 disputeId) external {
        Dispute storage dispute = _open(disputeId);
        require(block.timestamp >= dispute.ruleBefore, RulingPending(disputeId, dispute.ruleBefore));

        creditOf[dispute.token][dispute.challenger] += dispute.bond;
        if (dispute.held > 0) creditOf[dispute.token][dispute.payee] += dispute.held;
        _end(disputeId, DisputeState.Lapsed, address(0), 0, 0, "");
    }

    /// @inheritdoc IDisputes
    function payCredit(address token, address account) external nonReentrant returns (uint256 amount) {
        amount = creditOf[token][account];
        require(amount > 0, AmountZero());

        creditOf[token][account] = 0;
        emit CreditPaid(token, account, amount);
        IERC20(token).safeTransfer(account, amount);
    }

    /* VIEWS */

    /// @inheritdoc IDisputes
    function disputeOf(uint256 disputeId) external view returns (Dispute memory) {
        return _disputes[disputeId];
    }

    /// @inheritdoc ERC165
    function supportsInterface(bytes4 interfaceId) public view override returns (bool) {
        return interfaceId == type(IDisputes).interfaceId || super.supportsInterface(interfaceId);
    }

    /* INTERNAL */

    function _disputeOver(address provider, uint64 number, ProvenanceEvent calldata e, Ground ground)
        private
        view
        returns (Dispute memory dispute)
    {
        Task memory task = LOG.taskOf(e.taskId);
        bool taskKnown = task.provider == provider;
        bool inWallet = e.reward > 0 && e.payee != address(0);
        // What its batch cannot pay was promised only: it needs no holding, and must not make a challenge dear or impossible.
        bool isPayable =
            inWallet && !LOG.isClaimed(provider, number, e.index) && e.reward <= LOG.unclaimedOf(provider, number);
        // A wallet reward is not safe from challenges because of the task that its event names.
        require(taskKnown || isPayable, TaskUnknown(e.taskId));
        uint128 price = taskKnown ? task.price : 0;
        return Dispute({
            state: DisputeState.Open,
            ground: ground,
            provider: provider,
            number: number,
            index: e.index,
            ruleBefore: uint64(block.timestamp) + RULING_PERIOD,
            challenger: msg.sender,
            payee: isPayable ? e.payee : address(0),
            token: address(_tokenOf(provider)),
            // Nor because of that task's price, which anybody chooses.
            bond: isPayable || (e.reward > 0 && e.reward < price) ? e.reward : price,
            held: isPayable ? e.reward : 0,
            refund: isPayable ? 0 : e.reward < price ? e.reward : price
        });
    }

    function _emitOpened(
        uint256 disputeId,
        Dispute memory dispute,
        bytes16 dataId,
        bytes32 evidenceHash,
        string calldata evidenceUri
    ) private {
        emit DisputeOpened(
            disputeId,
            dispute.provider,
            dispute.number,
            dispute.index,
            dataId,
            dispute.ground,
            dispute.challenger,
            dispute.bond,
            dispute.held,
            dispute.ruleBefore,
            evidenceHash,
            evidenceUri
        );
    }

    /// @dev Credits as much of `amount` as the provider's bond has.
    function _slash(address provider, address token, address to, uint128 amount) private returns (uint128 slashed) {
        uint128 bond = bondOf[provider];
        slashed = amount < bond ? amount : bond;
        bond -= slashed;
        bondOf[provider] = bond;
        // What was announced stood behind the older batches, the rest stands behind all.
        uint128 announced = withdrawalOf[provider].amount;
        if (announced > 0) withdrawalOf[provider].amount = announced > slashed ? announced - slashed : 0;
        creditOf[token][to] += slashed;
    }

    function _end(
        uint256 disputeId,
        DisputeState state,
        address sponsor,
        uint128 refunded,
        uint128 bounty,
        string memory reason
    ) private {
        _disputes[disputeId].state = state;
        --openDisputesOf[_disputes[disputeId].provider];
        emit DisputeEnded(disputeId, state, sponsor, refunded, bounty, reason);
    }

    function _open(uint256 disputeId) private view returns (Dispute storage dispute) {
        dispute = _disputes[disputeId];
        require(dispute.state == DisputeState.Open, DisputeNotOpen(disputeId, dispute.state));
    }

    function _tokenOf(address provider) private view returns (IERC20) {
        (address token,) = LOG.settlementOf(provider);
        require(token != address(0), ProviderUnknown(provider));
        return IERC20(token);
    }

    function _pull(IERC20 token, uint128 amount) private {
        uint256 received = token.pull(msg.sender, amount);
        require(received == amount, AmountReceivedDiffers(amount, received));
    }
}
