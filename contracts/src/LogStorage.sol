// SPDX-License-Identifier: MIT OR Apache-2.0
// What the log and its reward pool share: providers and anchored batches.
pragma solidity ^0.8.28;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {BitMaps} from "@openzeppelin/contracts/utils/structs/BitMaps.sol";
import {Provider} from "../interfaces/IProvenanceLog.sol";

abstract contract LogStorage {
    struct BatchRecord {
        /// 0 where there is no batch.
        bytes32 root;
        /// Wallet rewards that are neither claimed nor held, payment-token units.
        uint128 left;
        uint64 challengeUntil;
        BitMaps.BitMap claimed;
    }

    mapping(address provider => Provider) internal _providers;
    mapping(address provider => mapping(uint64 number => BatchRecord)) internal _batches;

    /// @dev 0 where there is no provider.
    function _tokenOf(address provider) internal view returns (IERC20) {
        return IERC20(_providers[provider].token);
    }
}
