// SPDX-License-Identifier: MIT OR Apache-2.0
// OpenZeppelin's AccessManager under the name that the deployment knows: who may pause and who rules, with which delay.
pragma solidity ^0.8.28;

import {AccessManager} from "@openzeppelin/contracts/access/manager/AccessManager.sol";

contract Authority is AccessManager {
    /// @param initialAdmin Grants the roles; see docs/access.md.
    constructor(address initialAdmin) AccessManager(initialAdmin) {}
}
