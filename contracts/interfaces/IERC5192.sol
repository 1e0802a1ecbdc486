// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

/// @title ERC-5192: tokens that say whether they can be transferred. Its ERC-165 id is 0xb45a3c0e.
interface IERC5192 {
    event Locked(uint256 tokenId);
    event Unlocked(uint256 tokenId);

    /// @notice Whether a token is bound to its holder.
    function locked(uint256 tokenId) external view returns (bool);
}
