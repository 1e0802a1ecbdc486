// SPDX-License-Identifier: MIT OR Apache-2.0
// What the symbolic proofs start from: the real contracts with one provider, and short ways to pay, anchor and claim.
pragma solidity ^0.8.28;

import {IERC1271} from "@openzeppelin/contracts/interfaces/IERC1271.sol";
import {Batch, ProvenanceEvent, TaskDebit} from "../../interfaces/IProvenanceLog.sol";
import {Authority} from "../../src/Authority.sol";
import {Disputes} from "../../src/Disputes.sol";
import {PointsTreasury} from "../../src/PointsTreasury.sol";
import {ProvenanceLog} from "../../src/ProvenanceLog.sol";
import {DevToken} from "../../src/dev/DevToken.sol";
import {Test} from "../Vm.sol";

/// @dev Signs whatever it is asked for: no attestor can do more, so what holds for this one holds for all.
contract WillingAttestor is IERC1271 {
    function isValidSignature(bytes32, bytes calldata) external pure returns (bytes4) {
        return IERC1271.isValidSignature.selector;
    }
}

/// @dev The arguments of a check_ function stand for all values at once. A path that reverts proves nothing, so where a call
/// must go through the proof makes it low-level and asserts that it did.
abstract contract Proof is Test {
    uint64 internal constant NOW = 1_800_000_000;
    uint32 internal constant WINDOW = 7 days;
    address internal constant ADMIN = address(0xad);
    address internal constant PROVIDER = address(0x9201);
    address internal constant SPONSOR = address(0x5205);
    address internal constant PAYEE = address(0x9a1ee);
    address internal constant CHALLENGER = address(0xc4a1);
    bytes internal constant CID = hex"01701220aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    Authority internal authority;
    ProvenanceLog internal log;
    Disputes internal disputes;
    DevToken internal token;
    PointsTreasury internal treasury;
    WillingAttestor internal attestor;

    function setUp() public virtual {
        vm.warp(NOW);
        authority = new Authority(ADMIN);
        log = new ProvenanceLog(address(authority));
        disputes = Disputes(log.disputes());
        token = new DevToken();
        attestor = new WillingAttestor();
        treasury = new PointsTreasury(address(log), PROVIDER, address(token), PROVIDER);
        vm.prank(PROVIDER);
        log.registerProvider("numo", address(attestor), address(treasury), address(token), WINDOW);
    }

    /// @dev Whether the call went through; a revert does not end the path.
    function tried(address caller, address target, bytes memory call) internal returns (bool ok) {
        vm.prank(caller);
        (ok,) = target.call(call);
    }

    function give(address to, address spender, uint256 amount) internal {
        token.mint(to, amount);
        vm.prank(to);
        token.approve(spender, amount);
    }

    /// @dev A task of the sponsor, open for 30 days. With a price of 1 every amount may be debited, at any other price fewer.
    function aTask(uint128 price, uint128 escrow) internal returns (uint64 taskId) {
        give(SPONSOR, address(log), escrow);
        vm.prank(SPONSOR);
        return log.createTask(PROVIDER, price, NOW + 30 days, "terms", "", escrow);
    }

    function aBatch(uint64 number, bytes32 root, uint128 points, uint128 wallet)
        internal
        pure
        returns (Batch memory batch)
    {
        batch.provider = PROVIDER;
        batch.number = number;
        batch.root = root;
        batch.eventCount = 1;
        (batch.pointsTotal, batch.walletTotal) = (points, wallet);
        batch.manifestCid = CID;
    }

    /// @dev Anchors a batch of wallet rewards that hang under `root`, out of a task of its own.
    function anchorFunded(uint64 number, bytes32 root, uint128 wallet) internal {
        Batch memory batch = aBatch(number, root, 0, wallet);
        if (wallet > 0) {
            batch.debits = new TaskDebit[](1);
            batch.debits[0] = TaskDebit({taskId: aTask(1, wallet), amount: wallet});
        }
        log.anchor(batch, "");
    }

    function noProof() internal pure returns (bytes32[] memory) {
        return new bytes32[](0);
    }

    function claimOf(uint64 number, ProvenanceEvent memory e) internal view returns (bytes memory) {
        return abi.encodeCall(log.claim, (PROVIDER, number, e, noProof()));
    }
}
