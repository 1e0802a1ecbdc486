// SPDX-License-Identifier: MIT OR Apache-2.0
// Holds the tokens behind one provider's points and pays them out against published debits.
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {IPointsTreasury, PointsDebit} from "../interfaces/IPointsTreasury.sol";
import {IProvenanceLog} from "../interfaces/IProvenanceLog.sol";

contract PointsTreasury is IPointsTreasury {
    using SafeERC20 for IERC20;

    /// @inheritdoc IPointsTreasury
    address public immutable log;
    /// @inheritdoc IPointsTreasury
    address public immutable provider;
    /// @inheritdoc IPointsTreasury
    address public immutable token;

    /* STORAGE */

    /// @inheritdoc IPointsTreasury
    address public operator;
    /// @inheritdoc IPointsTreasury
    mapping(bytes32 payoutId => bool) public isRedeemed;

    constructor(address log_, address provider_, address token_, address operator_) {
        require(
            log_ != address(0) && provider_ != address(0) && token_ != address(0) && operator_ != address(0),
            AddressZero()
        );
        log = log_;
        provider = provider_;
        token = token_;
        operator = operator_;
        emit OperatorChanged(operator_);
    }

    /// @inheritdoc IPointsTreasury
    function redeem(PointsDebit[] calldata debits, address to) external {
        require(msg.sender == operator, OnlyOperator(msg.sender));
        require(to != address(0), AddressZero());
        require(debits.length > 0, DebitsEmpty());

        uint256 total = 0;
        for (uint256 i = 0; i < debits.length; ++i) {
            PointsDebit calldata debit = debits[i];
            require(debit.amount > 0, AmountZero(debit.payoutId));
            require(!isRedeemed[debit.payoutId], AlreadyRedeemed(debit.payoutId));
            isRedeemed[debit.payoutId] = true;
            total += debit.amount;
            emit PointsRedeemed(debit.payoutId, debit.account, debit.amount, to);
        }
        if (IERC20(token).balanceOf(address(this)) < total) IProvenanceLog(log).sweepPoints(provider);
        IERC20(token).safeTransfer(to, total);
    }

    /// @inheritdoc IPointsTreasury
    function setOperator(address operator_) external {
        require(msg.sender == provider, OnlyProvider(msg.sender));
        require(operator_ != address(0), AddressZero());

        operator = operator_;
        emit OperatorChanged(operator_);
    }

    /// @inheritdoc IPointsTreasury
    function backing() external view returns (uint256) {
        return IERC20(token).balanceOf(address(this)) + IProvenanceLog(log).providerOf(provider).pointsAccrued;
    }
}
