// SPDX-License-Identifier: MIT OR Apache-2.0
pragma solidity ^0.8.28;

import {Version} from "./IIPRegistry.sol";
import {LicenseView} from "./ILicenseRegistry.sol";

/// @title Token pages as on-chain JSON and SVG, with every term in words.
interface IRenderer {
    function licenseURI(uint256 licenseId, string calldata dataset, LicenseView calldata license)
        external
        pure
        returns (string memory);

    function datasetURI(uint256 ipId, string calldata name, address provider, uint32 number, Version calldata version)
        external
        pure
        returns (string memory);

    function contributionURI(uint256 ipId, address provider, uint64 number, bytes16 dataId)
        external
        pure
        returns (string memory);

    /// @notice ERC-7572 metadata of a collection.
    function collectionURI(string calldata name, string calldata symbol, string calldata description)
        external
        pure
        returns (string memory);
}
