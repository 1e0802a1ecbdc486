// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

/// @title ERC-7572: metadata of a collection as a whole.
interface IERC7572 {
    event ContractURIUpdated();

    /// @notice On-chain JSON.
    function contractURI() external view returns (string memory);
}
