// SPDX-License-Identifier: MIT OR Apache-2.0
// Takes ERC-20 tokens in: by allowance, EIP-2612 permit or EIP-3009 authorisation, and says what really arrived.
pragma solidity ^0.8.28;

import {IERC3009} from "@openzeppelin/contracts/interfaces/draft-IERC3009.sol";
import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Authorization, Permit} from "../interfaces/IRewardPool.sol";

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

    /// @notice Pulls `amount` out of an allowance; a token with a fee makes `received` less.
    function pull(IERC20 token, address from, uint256 amount) internal returns (uint256 received) {
        uint256 before = token.balanceOf(address(this));
        token.safeTransferFrom(from, address(this), amount);
        return token.balanceOf(address(this)) - before;
    }

    /// @notice Pulls `amount` with an authorisation for `purpose`, the hash of what is paid for.
    /// @dev The nonce's last 64 bits are 0: some tokens (OpenZeppelin's ERC20TransferAuthorization) count there.
    function pullAuthorized(
        IERC20 token,
        address from,
        uint256 amount,
        bytes32 purpose,
        Authorization calldata authorization
    ) internal returns (uint256 received) {
        uint256 before = token.balanceOf(address(this));
        IERC3009(address(token))
            .receiveWithAuthorization(
                from,
                address(this),
                amount,
                authorization.validAfter,
                authorization.validBefore,
                (purpose >> 64) << 64,
                authorization.v,
                authorization.r,
                authorization.s
            );
        return token.balanceOf(address(this)) - before;
    }
}
