// SPDX-License-Identifier: MIT OR Apache-2.0
// Whatever anyone does in whatever order, the promises of contracts/PROPERTIES.md hold after each action.
pragma solidity ^0.8.28;

import {Test} from "../Vm.sol";
import {LicenseHandler} from "./LicenseHandler.sol";
import {Random} from "./World.sol";

/// @notice Every actor in one: each call does one random thing, or is discarded where that is not possible now.
contract Handler is LicenseHandler {
    /// @dev Something to start from, so that few actions of a run are lost.
    constructor() {
        for (uint256 p = 0; p < PROVIDERS; ++p) {
            addTask(Random(p));
            addTask(Random(p + 3));
            addVersion(Random(p), p);
            anchorFor(Random(p), p);
            addOffer(Random(p));
        }
    }
}

contract InvariantsTest is Test {
    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    Handler private _handler;

    function setUp() external {
        _handler = new Handler();
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(_handler);
    }

    function targetSelectors() external view returns (FuzzSelector[] memory targets) {
        targets = new FuzzSelector[](1);
        targets[0] = FuzzSelector(address(_handler), actions());
    }

    /// P1, P2, P4, P6, P8, P9, P10, P15; what an action must do itself, and what must be refused, is asserted in the action.
    function invariant_PromisesHold() external view {
        _handler.check();
    }

    function afterInvariant() external view {
        _handler.checkAll();
    }

    /// Every action is possible: none of the campaign's is always discarded.
    function test_EveryActionDoesSomething() external {
        bytes4[] memory all = actions();
        bool[] memory done = new bool[](all.length);
        uint256 left = all.length;
        for (uint256 i = 0; i < 2500 && left > 0; ++i) {
            // as long as a run; later most of what a world may have is used up
            if (i % 250 == 0) _handler = new Handler();
            uint256 seed = uint256(keccak256(abi.encode("seed", i)));
            uint256 a = (seed >> 1) % all.length;
            // every other time one that is still missing
            while (seed % 2 == 0 && done[a]) a = (a + 1) % all.length;
            (bool ok, bytes memory data) = address(_handler).call(abi.encodeWithSelector(all[a], seed));
            // what `assume` reverts with
            if (!ok) assertEq(keccak256(data), keccak256("FOUNDRY::ASSUME"));
            if (ok && !done[a]) (done[a], left) = (true, left - 1);
        }
        assertEq(left, 0);
    }

    function actions() private view returns (bytes4[] memory all) {
        Handler h = _handler;
        all = new bytes4[](40);
        all[0] = h.createTask.selector;
        all[1] = h.fundTask.selector;
        all[2] = h.refundTask.selector;
        all[3] = h.refundTooEarly.selector;
        all[4] = h.wait.selector;
        all[5] = h.anchor.selector;
        all[6] = h.anchorWrongly.selector;
        all[7] = h.rotateAttestor.selector;
        all[8] = h.setChallengeWindow.selector;
        all[9] = h.pause.selector;
        all[10] = h.unpause.selector;
        all[11] = h.claim.selector;
        all[12] = h.claimMany.selector;
        all[13] = h.logMulticall.selector;
        all[14] = h.claimWrongly.selector;
        all[15] = h.sweep.selector;
        all[16] = h.redeem.selector;
        all[17] = h.redeemWrongly.selector;
        all[18] = h.donate.selector;
        all[19] = h.depositBond.selector;
        all[20] = h.requestBondWithdrawal.selector;
        all[21] = h.withdrawBond.selector;
        all[22] = h.challenge.selector;
        all[23] = h.challengeTooLate.selector;
        all[24] = h.rule.selector;
        all[25] = h.lapse.selector;
        all[26] = h.lapseTooEarly.selector;
        all[27] = h.payCredit.selector;
        all[28] = h.newVersion.selector;
        all[29] = h.withdrawConsent.selector;
        all[30] = h.reportWithdrawn.selector;
        all[31] = h.publishOffer.selector;
        all[32] = h.closeOffer.selector;
        all[33] = h.buy.selector;
        all[34] = h.buyWrongly.selector;
        all[35] = h.transferLicense.selector;
        all[36] = h.revoke.selector;
        all[37] = h.claimRoyalty.selector;
        all[38] = h.claimRoyalties.selector;
        all[39] = h.claimRoyaltyWrongly.selector;
    }
}
