// SPDX-License-Identifier: MIT OR Apache-2.0
// Deploys the contracts under test from the code that is built for chains, not as forge compiles it together with the tests.
pragma solidity ^0.8.28;

import {ConsentRegistry} from "../src/ConsentRegistry.sol";
import {AttestorQuorum} from "../src/AttestorQuorum.sol";
import {Authority} from "../src/Authority.sol";
import {IPRegistry} from "../src/IPRegistry.sol";
import {LicenseRegistry} from "../src/LicenseRegistry.sol";
import {PointsTreasury} from "../src/PointsTreasury.sol";
import {ProvenanceLog} from "../src/ProvenanceLog.sol";
import {Renderer} from "../src/Renderer.sol";
import {DevToken} from "../src/dev/DevToken.sol";
import {Vm} from "./Vm.sol";

library Deploy {
    Vm private constant vm = Vm(address(uint160(uint256(keccak256("hevm cheat code")))));

    function attestorQuorum(address[] memory members, uint256 threshold) internal returns (AttestorQuorum) {
        return AttestorQuorum(deploy("AttestorQuorum", abi.encode(members, threshold)));
    }

    function authority(address admin) internal returns (Authority) {
        return Authority(deploy("Authority", abi.encode(admin)));
    }

    function consentRegistry() internal returns (ConsentRegistry) {
        return ConsentRegistry(deploy("ConsentRegistry", ""));
    }

    function devToken() internal returns (DevToken) {
        return DevToken(deploy("DevToken", ""));
    }

    function ipRegistry(ProvenanceLog log, ConsentRegistry consents, Renderer itsRenderer)
        internal
        returns (IPRegistry)
    {
        return IPRegistry(deploy("IPRegistry", abi.encode(log, consents, itsRenderer)));
    }

    function licenseRegistry(ProvenanceLog log, IPRegistry ips, Renderer itsRenderer, Authority itsAuthority)
        internal
        returns (LicenseRegistry)
    {
        return LicenseRegistry(deploy("LicenseRegistry", abi.encode(log, ips, itsRenderer, itsAuthority)));
    }

    function pointsTreasury(address log, address provider, address token, address operator)
        internal
        returns (PointsTreasury)
    {
        return PointsTreasury(deploy("PointsTreasury", abi.encode(log, provider, token, operator)));
    }

    function provenanceLog(Authority itsAuthority) internal returns (ProvenanceLog) {
        return ProvenanceLog(deploy("ProvenanceLog", abi.encode(itsAuthority)));
    }

    function renderer() internal returns (Renderer) {
        return Renderer(deploy("Renderer", ""));
    }

    /// @dev `forge coverage` counts only in code that it compiled itself.
    function deploy(string memory name, bytes memory arguments) private returns (address) {
        string memory file = string.concat(name, ".sol");
        bool inCoverage = vm.isContext(Vm.ForgeContext.Coverage);
        return vm.deployCode(
            inCoverage ? string.concat(file, ":", name) : string.concat("contracts/out/", file, "/", name, ".json"),
            arguments
        );
    }
}
