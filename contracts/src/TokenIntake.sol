// SPDX-License-Identifier: MIT OR Apache-2.0
// Takes ERC-20 tokens in: permits that may have been used already, and the amount that really arrived.
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Permit} from "./interfaces/IRewardPool.sol";

library TokenIntake {
    using SafeERC20 for IERC20;

    /// @notice Uses the caller's permit for this contract over `value`.
    /// @dev A permit can be carried by anyone who sees it in the mempool, and then fails here. That must not stop its
    /// owner, so a failure is ignored and the allowance decides.
    function tryPermit(IERC20 token, uint256 value, Permit calldata permit) internal {
        try IERC20Permit(address(token))
            .permit(msg.sender, address(this), value, permit.deadline, permit.v, permit.r, permit.s) {}
            catch {}
    }

    /// @notice Pulls `amount` and says what arrived, which a token with a fee makes less.
    function pull(IERC20 token, address from, uint256 amount) internal returns (uint256 received) {
        uint256 before = token.balanceOf(address(this));
        token.safeTransferFrom(from, address(this), amount);
        return token.balanceOf(address(this)) - before;
    }
}
