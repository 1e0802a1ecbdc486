// SPDX-License-Identifier: MIT OR Apache-2.0
// The roles and delays of docs/access.md: who may pause and rule and when, and what an admin with all of them still can't do.
pragma solidity ^0.8.28;

import {IAccessManaged} from "@openzeppelin/contracts/access/manager/IAccessManaged.sol";
import {IAccessManager} from "@openzeppelin/contracts/access/manager/IAccessManager.sol";
import {IAuthority} from "@openzeppelin/contracts/access/manager/IAuthority.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";
import {Consent} from "../interfaces/IConsentRegistry.sol";
import {DisputeState, Ground} from "../interfaces/IDisputes.sol";
import {Member} from "../interfaces/IIPRegistry.sol";
import {Batch, ProvenanceEvent} from "../interfaces/IProvenanceLog.sol";
import {PointsDebit} from "../interfaces/IPointsTreasury.sol";
import {Authority} from "../src/Authority.sol";
import {Disputes} from "../src/Disputes.sol";
import {IPRegistry} from "../src/IPRegistry.sol";
import {LicenseRegistry} from "../src/LicenseRegistry.sol";
import {ProvenanceLog} from "../src/ProvenanceLog.sol";
import {Renderer} from "../src/Renderer.sol";
import {Deploy} from "./Deploy.sol";
import {Fixture} from "./Fixture.sol";
import {StandardMerkleTree} from "./StandardMerkleTree.sol";

/// @notice An authority that lets its owner do everything, and calls whatever its owner says.
contract RogueAuthority is IAuthority {
    address private immutable OWNER = msg.sender;

    function canCall(address caller, address, bytes4) external view returns (bool) {
        return caller == OWNER || caller == address(this);
    }

    function execute(address target, bytes calldata data) external returns (bool ok) {
        require(msg.sender == OWNER);
        (ok,) = target.call(data);
    }
}

contract AuthorityTest is Fixture {
    using StandardMerkleTree for bytes32[];

    uint64 private constant ADMIN = 0;
    uint64 private constant GUARDIAN = 3;
    uint32 private constant ADMIN_DELAY = 3 days;
    uint32 private constant RULING_DELAY = 1 days;
    uint32 private constant TARGET_DELAY = 5 days;
    uint32 private constant WINDOW = 7 days;

    address private deployer = account("deployer");
    address private guardian = account("guardian");
    address private challenger = account("challenger");
    address private contributor = account("contributor");
    address private settlement = account("settlement");

    /* What everybody has in the contracts; see `world`. */

    ProvenanceEvent[] private _events;
    Member[] private _members;
    uint256 private _ipId;
    uint64 private _offerId;
    uint256 private _disputeId;
    uint256 private _clock = NOW;

    function setUp() public override {
        super.setUp();
        authority = Deploy.authority(deployer);
        log = Deploy.provenanceLog(authority);
        disputes = Disputes(log.disputes());
        Renderer renderer = Deploy.renderer();
        ips = Deploy.ipRegistry(log, consents, renderer);
        licenses = Deploy.licenseRegistry(log, ips, renderer, authority);
        treasury = registerProvider(provider, "numo", attestor, address(token), WINDOW);
        vm.prank(deployer);
        authority.multicall(deployment());
    }

    /// @dev The calls of `tidemark deploy`, in its order.
    function deployment() private view returns (bytes[] memory calls) {
        bytes4[] memory pausing = new bytes4[](2);
        (pausing[0], pausing[1]) = (log.pause.selector, log.unpause.selector);
        bytes4[] memory rules = new bytes4[](1);
        rules[0] = disputes.rule.selector;
        calls = new bytes[](12);
        calls[0] = abi.encodeCall(authority.setTargetFunctionRole, (address(log), pausing, PAUSER));
        calls[1] = abi.encodeCall(authority.setTargetFunctionRole, (address(licenses), pausing, PAUSER));
        calls[2] = abi.encodeCall(authority.setTargetFunctionRole, (address(disputes), rules, ARBITER));
        calls[3] = abi.encodeCall(authority.setRoleGuardian, (ARBITER, GUARDIAN));
        calls[4] = abi.encodeCall(authority.grantRole, (PAUSER, pauser, 0));
        calls[5] = abi.encodeCall(authority.grantRole, (ARBITER, arbiter, RULING_DELAY));
        calls[6] = abi.encodeCall(authority.grantRole, (GUARDIAN, guardian, 0));
        calls[7] = abi.encodeCall(authority.setTargetAdminDelay, (address(log), TARGET_DELAY));
        calls[8] = abi.encodeCall(authority.setTargetAdminDelay, (address(licenses), TARGET_DELAY));
        calls[9] = abi.encodeCall(authority.setTargetAdminDelay, (address(disputes), TARGET_DELAY));
        calls[10] = abi.encodeCall(authority.grantRole, (ADMIN, admin, ADMIN_DELAY));
        calls[11] = abi.encodeCall(authority.renounceRole, (ADMIN, deployer));
    }

    /* HELPERS */

    /// @dev A clock of its own, for the optimizer takes block.timestamp to stay the same during a call.
    function wait(uint256 time) private {
        waitUntil(_clock + time);
    }

    function waitUntil(uint256 unixSeconds) private {
        _clock = unixSeconds;
        vm.warp(unixSeconds);
    }

    function operationOf(address who, address target, bytes memory data) private pure returns (bytes32) {
        return keccak256(abi.encode(who, target, data));
    }

    function schedule(address who, address target, bytes memory data) private {
        vm.prank(who);
        authority.schedule(target, data, 0);
    }

    /// @dev Calls as `who`, and passes a failure on.
    function callAs(address who, address target, bytes memory data) private {
        vm.prank(who);
        (bool ok, bytes memory returned) = target.call(data);
        if (ok) return;
        // solhint-disable-next-line no-inline-assembly
        assembly ("memory-safe") {
            revert(add(returned, 0x20), mload(returned))
        }
    }

    /// @dev An admin's call of the authority, after its delay.
    function administer(bytes memory data, uint256 delay) private {
        schedule(admin, address(authority), data);
        wait(delay);
        callAs(admin, address(authority), data);
    }

    function selectorsOf(bytes4 selector) private pure returns (bytes4[] memory selectors) {
        selectors = new bytes4[](1);
        selectors[0] = selector;
    }

    function ruling(bool upheld) private view returns (bytes memory) {
        return abi.encodeCall(disputes.rule, (_disputeId, upheld, 1, "seen"));
    }

    function assertPaused(bool paused) private view {
        assertTrue(log.paused() == paused);
        assertTrue(licenses.paused() == paused);
    }

    function setPaused(bool paused) private {
        vm.prank(pauser);
        if (paused) log.pause();
        else log.unpause();
        vm.prank(pauser);
        if (paused) licenses.pause();
        else licenses.unpause();
        assertPaused(paused);
    }

    /* THE DEPLOYMENT */

    function test_RolesAndDelays() external {
        assertRole(ADMIN, admin, true, ADMIN_DELAY);
        assertRole(PAUSER, pauser, true, 0);
        assertRole(ARBITER, arbiter, true, RULING_DELAY);
        assertRole(GUARDIAN, guardian, true, 0);
        for (uint64 role = 0; role <= GUARDIAN; ++role) {
            assertRole(role, deployer, false, 0);
            assertRole(role, provider, false, 0);
        }
        assertEq(authority.getRoleGuardian(ARBITER), GUARDIAN);
        address[3] memory targets = [address(log), address(licenses), address(disputes)];
        for (uint256 i = 0; i < 3; ++i) {
            assertEq(IAccessManaged(targets[i]).authority(), address(authority));
            assertEq(authority.getTargetAdminDelay(targets[i]), 0);
        }
        waitUntil(NOW + 5 days);
        for (uint256 i = 0; i < 3; ++i) {
            assertEq(authority.getTargetAdminDelay(targets[i]), TARGET_DELAY);
        }
    }

    function assertRole(uint64 role, address who, bool isMember, uint32 delay) private view {
        (bool has, uint32 its) = authority.hasRole(role, who);
        assertTrue(has == isMember);
        assertEq(its, delay);
    }

    /* PAUSE */

    /// P17
    function test_ThePauserPausesAndResumesAtOnce() external {
        setPaused(true);
        Batch memory batch = aBatch(0);
        expectAnchorRevert(batch, abi.encodeWithSelector(Pausable.EnforcedPause.selector));
        setPaused(false);
        anchor(batch);
    }

    /// P17
    function testFuzz_NobodyElsePauses(address caller) external {
        vm.assume(caller != pauser);
        assertPausingRefused(caller);
    }

    /// P17
    function test_RevertWhen_AnotherRolePauses() external {
        address[8] memory callers =
            [admin, arbiter, guardian, deployer, provider, attestor, operator, address(authority)];
        for (uint256 i = 0; i < callers.length; ++i) {
            assertPausingRefused(callers[i]);
        }
    }

    function assertPausingRefused(address caller) private {
        address[2] memory targets = [address(log), address(licenses)];
        bytes memory refusal = abi.encodeWithSelector(IAccessManaged.AccessManagedUnauthorized.selector, caller);
        for (uint256 i = 0; i < 2; ++i) {
            vm.expectRevert(refusal);
            vm.prank(caller);
            ProvenanceLog(targets[i]).pause();
            vm.expectRevert(refusal);
            vm.prank(caller);
            ProvenanceLog(targets[i]).unpause();
        }
        assertPaused(false);
    }

    /// P17: Multicall keeps the caller, and so its rights.
    function test_RevertWhen_AStrangerPausesByMulticall() external {
        bytes[] memory calls = new bytes[](1);
        calls[0] = abi.encodeCall(log.pause, ());
        bytes memory refusal = abi.encodeWithSelector(IAccessManaged.AccessManagedUnauthorized.selector, stranger);
        vm.expectRevert(refusal);
        vm.prank(stranger);
        log.multicall(calls);
        vm.expectRevert(refusal);
        vm.prank(stranger);
        licenses.multicall(calls);
        vm.prank(pauser);
        log.multicall(calls);
        assertTrue(log.paused());
    }

    /* RULINGS */

    /// P17
    function test_TheArbiterRulesADayAfterItsDecision() external {
        world();
        bytes32 operation = operationOf(arbiter, address(disputes), ruling(true));
        vm.expectRevert(abi.encodeWithSelector(IAccessManager.AccessManagerNotScheduled.selector, operation));
        callAs(arbiter, address(disputes), ruling(true));

        schedule(arbiter, address(disputes), ruling(true));
        wait(RULING_DELAY - 1);
        vm.expectRevert(abi.encodeWithSelector(IAccessManager.AccessManagerNotReady.selector, operation));
        callAs(arbiter, address(disputes), ruling(true));
        wait(1);
        callAs(arbiter, address(disputes), ruling(true));
        assertEq(uint256(disputes.disputeOf(_disputeId).state), uint256(DisputeState.Upheld));
    }

    /// P17
    function test_ARulingIsExecutedThroughTheAuthorityAsWell() external {
        world();
        schedule(arbiter, address(disputes), ruling(false));
        wait(RULING_DELAY);
        vm.prank(arbiter);
        authority.execute(address(disputes), ruling(false));
        assertEq(uint256(disputes.disputeOf(_disputeId).state), uint256(DisputeState.Rejected));
    }

    /// P17
    function test_RevertWhen_AnotherRulingWasScheduled() external {
        world();
        schedule(arbiter, address(disputes), ruling(true));
        wait(RULING_DELAY);
        vm.expectRevert(
            abi.encodeWithSelector(
                IAccessManager.AccessManagerNotScheduled.selector,
                operationOf(arbiter, address(disputes), ruling(false))
            )
        );
        callAs(arbiter, address(disputes), ruling(false));
    }

    /// P17
    function test_RevertWhen_AScheduledRulingIsAWeekOld() external {
        world();
        schedule(arbiter, address(disputes), ruling(true));
        wait(RULING_DELAY + 7 days);
        vm.expectRevert(
            abi.encodeWithSelector(
                IAccessManager.AccessManagerExpired.selector, operationOf(arbiter, address(disputes), ruling(true))
            )
        );
        callAs(arbiter, address(disputes), ruling(true));
    }

    /// P17
    function testFuzz_NobodyElseSchedulesARuling(address caller) external {
        vm.assume(caller != arbiter);
        world();
        vm.expectRevert(
            abi.encodeWithSelector(
                IAccessManager.AccessManagerUnauthorizedCall.selector, caller, address(disputes), disputes.rule.selector
            )
        );
        schedule(caller, address(disputes), ruling(true));
    }

    /// P17: and then the dispute lapses, so cancelling can't take anything from anybody.
    function test_TheGuardianCancelsAScheduledRuling() external {
        world();
        schedule(arbiter, address(disputes), ruling(true));
        address[5] memory others = [pauser, provider, challenger, sponsor, stranger];
        for (uint256 i = 0; i < others.length; ++i) {
            vm.expectRevert(
                abi.encodeWithSelector(
                    IAccessManager.AccessManagerUnauthorizedCancel.selector,
                    others[i],
                    arbiter,
                    address(disputes),
                    disputes.rule.selector
                )
            );
            vm.prank(others[i]);
            authority.cancel(arbiter, address(disputes), ruling(true));
        }
        vm.prank(guardian);
        authority.cancel(arbiter, address(disputes), ruling(true));
        wait(RULING_DELAY);
        vm.expectRevert(
            abi.encodeWithSelector(
                IAccessManager.AccessManagerNotScheduled.selector, operationOf(arbiter, address(disputes), ruling(true))
            )
        );
        callAs(arbiter, address(disputes), ruling(true));

        waitUntil(disputes.disputeOf(_disputeId).ruleBefore);
        disputes.lapse(_disputeId);
        assertEq(disputes.creditOf(address(token), contributor), PRICE);
    }

    function test_TheArbiterAndTheAdminCancelToo() external {
        world();
        address[2] memory cancelling = [arbiter, admin];
        for (uint256 i = 0; i < 2; ++i) {
            schedule(arbiter, address(disputes), ruling(true));
            vm.prank(cancelling[i]);
            authority.cancel(arbiter, address(disputes), ruling(true));
        }
    }

    /* THE ADMIN'S DELAYS */

    /// P17
    function test_TheAdminGrantsAfterThreeDays() external {
        bytes memory grant = abi.encodeCall(authority.grantRole, (PAUSER, stranger, 0));
        bytes32 operation = operationOf(admin, address(authority), grant);
        vm.expectRevert(abi.encodeWithSelector(IAccessManager.AccessManagerNotScheduled.selector, operation));
        callAs(admin, address(authority), grant);
        schedule(admin, address(authority), grant);
        waitUntil(NOW + ADMIN_DELAY - 1);
        vm.expectRevert(abi.encodeWithSelector(IAccessManager.AccessManagerNotReady.selector, operation));
        callAs(admin, address(authority), grant);
        waitUntil(NOW + ADMIN_DELAY);
        callAs(admin, address(authority), grant);
        vm.prank(stranger);
        log.pause();
    }

    /// P17: what a stolen pauser can do ends with its role.
    function test_APauserIsReplaced() external {
        administer(abi.encodeCall(authority.grantRole, (PAUSER, stranger, 0)), ADMIN_DELAY);
        administer(abi.encodeCall(authority.revokeRole, (PAUSER, pauser)), ADMIN_DELAY);
        vm.expectRevert(abi.encodeWithSelector(IAccessManaged.AccessManagedUnauthorized.selector, pauser));
        vm.prank(pauser);
        log.pause();
        vm.prank(stranger);
        log.pause();
    }

    /// P17
    function test_AGrantDelayHolds() external {
        administer(abi.encodeCall(authority.setGrantDelay, (ARBITER, 2 days)), ADMIN_DELAY);
        wait(5 days);
        assertEq(authority.getRoleGrantDelay(ARBITER), 2 days);
        administer(abi.encodeCall(authority.grantRole, (ARBITER, stranger, 0)), ADMIN_DELAY);
        world();
        vm.expectRevert(abi.encodeWithSelector(IAccessManaged.AccessManagedUnauthorized.selector, stranger));
        callAs(stranger, address(disputes), ruling(true));
        wait(2 days);
        callAs(stranger, address(disputes), ruling(true));
    }

    /// P17
    function test_WhatARestrictedCallNeedsChangesAfterFiveDays() external {
        waitUntil(NOW + 5 days);
        bytes memory change = abi.encodeCall(
            authority.setTargetFunctionRole, (address(disputes), selectorsOf(disputes.rule.selector), PAUSER)
        );
        schedule(admin, address(authority), change);
        wait(TARGET_DELAY - 1);
        vm.expectRevert(
            abi.encodeWithSelector(
                IAccessManager.AccessManagerNotReady.selector, operationOf(admin, address(authority), change)
            )
        );
        callAs(admin, address(authority), change);
        wait(1);
        callAs(admin, address(authority), change);
        assertEq(authority.getTargetFunctionRole(address(disputes), disputes.rule.selector), PAUSER);
    }

    /// P17: the target delay starts five days after the deployment; until then the admin's own delay holds.
    function test_InTheFirstFiveDaysTheAdminsOwnDelayHolds() external {
        bytes memory change = abi.encodeCall(authority.setTargetClosed, (address(log), true));
        vm.expectRevert(
            abi.encodeWithSelector(
                IAccessManager.AccessManagerNotScheduled.selector, operationOf(admin, address(authority), change)
            )
        );
        callAs(admin, address(authority), change);
        administer(change, ADMIN_DELAY);
        assertTrue(authority.isTargetClosed(address(log)));
    }

    /// P17
    function test_ATargetDelayGetsShorterOnlyAfterFiveDays() external {
        waitUntil(NOW + 5 days);
        administer(abi.encodeCall(authority.setTargetAdminDelay, (address(log), 0)), ADMIN_DELAY);
        assertEq(authority.getTargetAdminDelay(address(log)), TARGET_DELAY);
        wait(5 days - 1);
        assertEq(authority.getTargetAdminDelay(address(log)), TARGET_DELAY);
        wait(1);
        assertEq(authority.getTargetAdminDelay(address(log)), 0);
    }

    /// P17
    function testFuzz_NobodyElseAdministers(address caller) external {
        vm.assume(caller != admin && caller != address(authority));
        bytes[] memory calls = new bytes[](9);
        calls[0] = abi.encodeCall(authority.grantRole, (ADMIN, caller, 0));
        calls[1] = abi.encodeCall(authority.revokeRole, (ADMIN, admin));
        calls[2] = abi.encodeCall(authority.setRoleAdmin, (ARBITER, PAUSER));
        calls[3] = abi.encodeCall(authority.setRoleGuardian, (ARBITER, PAUSER));
        calls[4] = abi.encodeCall(authority.setGrantDelay, (ARBITER, 1));
        calls[5] = abi.encodeCall(authority.setTargetAdminDelay, (address(log), 0));
        calls[6] = abi.encodeCall(authority.setTargetClosed, (address(log), true));
        calls[7] = abi.encodeCall(authority.updateAuthority, (address(log), address(log)));
        calls[8] = abi.encodeCall(
            authority.setTargetFunctionRole, (address(log), selectorsOf(log.pause.selector), type(uint64).max)
        );
        for (uint256 i = 0; i < calls.length; ++i) {
            vm.expectRevert(
                abi.encodeWithSelector(IAccessManager.AccessManagerUnauthorizedAccount.selector, caller, ADMIN)
            );
            callAs(caller, address(authority), calls[i]);
        }
    }

    /* THE AUTHORITY ITSELF */

    /// P17
    function testFuzz_OnlyTheAuthorityChangesTheAuthority(address caller) external {
        vm.assume(caller != address(authority));
        address[3] memory targets = [address(log), address(licenses), address(disputes)];
        for (uint256 i = 0; i < 3; ++i) {
            vm.expectRevert(abi.encodeWithSelector(IAccessManaged.AccessManagedUnauthorized.selector, caller));
            vm.prank(caller);
            IAccessManaged(targets[i]).setAuthority(address(authority));
        }
    }

    /// P17
    function test_RevertWhen_TheAdminChangesItDirectly() external {
        waitUntil(NOW + 5 days);
        bytes memory change = abi.encodeCall(IAccessManaged.setAuthority, (address(authority)));
        vm.expectRevert(abi.encodeWithSelector(IAccessManaged.AccessManagedUnauthorized.selector, admin));
        callAs(admin, address(log), change);
    }

    /// P17
    function test_TheAuthorityChangesAfterFiveDays() external {
        waitUntil(NOW + 5 days);
        Authority next = Deploy.authority(stranger);
        bytes memory change = abi.encodeCall(authority.updateAuthority, (address(log), address(next)));
        schedule(admin, address(authority), change);
        wait(TARGET_DELAY - 1);
        vm.expectRevert(
            abi.encodeWithSelector(
                IAccessManager.AccessManagerNotReady.selector, operationOf(admin, address(authority), change)
            )
        );
        callAs(admin, address(authority), change);
        wait(1);
        callAs(admin, address(authority), change);
        assertEq(log.authority(), address(next));
        vm.expectRevert(abi.encodeWithSelector(IAccessManaged.AccessManagedUnauthorized.selector, pauser));
        vm.prank(pauser);
        log.pause();
    }

    /* WHAT NO ROLE REACHES */

    /// P9, P10
    function test_EverybodyIsPaidWhileAllIsPausedAndClosed() external {
        world();
        setPaused(true);
        address[3] memory targets = [address(log), address(licenses), address(disputes)];
        for (uint256 i = 0; i < 3; ++i) {
            schedule(admin, address(authority), abi.encodeCall(authority.setTargetClosed, (targets[i], true)));
        }
        wait(TARGET_DELAY);
        for (uint256 i = 0; i < 3; ++i) {
            callAs(admin, address(authority), abi.encodeCall(authority.setTargetClosed, (targets[i], true)));
        }
        vm.expectRevert(abi.encodeWithSelector(IAccessManaged.AccessManagedUnauthorized.selector, pauser));
        vm.prank(pauser);
        log.unpause();
        settleWorld();
    }

    /// P9, P17
    function test_TheAdminWithEveryPowerAndPatienceTakesNothing() external {
        world();
        // every role, without delays, and a say over every call there is
        administer(abi.encodeCall(authority.grantRole, (PAUSER, admin, 0)), ADMIN_DELAY);
        administer(abi.encodeCall(authority.grantRole, (ARBITER, admin, 0)), ADMIN_DELAY);
        (address[] memory targets, bytes[] memory calls) = attacks();
        for (uint256 i = 0; i < targets.length; ++i) {
            bytes4 selector = bytes4(calls[i]);
            administer(
                abi.encodeCall(authority.setTargetFunctionRole, (targets[i], selectorsOf(selector), ADMIN)),
                TARGET_DELAY
            );
        }
        administer(abi.encodeCall(authority.grantRole, (ADMIN, admin, 0)), ADMIN_DELAY);
        wait(ADMIN_DELAY);
        bytes32 before = holdings();

        for (uint256 i = 0; i < targets.length; ++i) {
            vm.prank(admin);
            (bool ok,) = targets[i].call(calls[i]);
            assertFalse(ok);
            vm.prank(admin);
            (ok,) = address(authority).call(abi.encodeCall(authority.execute, (targets[i], calls[i])));
            assertFalse(ok);
        }
        // and with another authority
        vm.prank(admin);
        RogueAuthority rogue = new RogueAuthority();
        address[3] memory managed = [address(log), address(licenses), address(disputes)];
        for (uint256 i = 0; i < 3; ++i) {
            administer(abi.encodeCall(authority.updateAuthority, (managed[i], address(rogue))), TARGET_DELAY);
            assertEq(IAccessManaged(managed[i]).authority(), address(rogue));
        }
        for (uint256 i = 0; i < targets.length; ++i) {
            vm.prank(admin);
            (bool ok,) = targets[i].call(calls[i]);
            assertFalse(ok);
            vm.prank(admin);
            assertFalse(rogue.execute(targets[i], calls[i]));
        }
        vm.prank(admin);
        log.pause();
        vm.prank(admin);
        licenses.pause();
        assertEq(holdings(), before);
        settleWorld();
    }

    /// P9: an arbiter rules on what is in an open dispute and on nothing else, once.
    function test_ACorruptArbiterReachesOnlyTheDispute() external {
        world();
        schedule(arbiter, address(disputes), ruling(true));
        wait(RULING_DELAY);
        uint256 inLog = token.balanceOf(address(log));
        uint256 inLicenses = token.balanceOf(address(licenses));
        callAs(arbiter, address(disputes), ruling(true));
        assertEq(token.balanceOf(address(log)), inLog);
        assertEq(token.balanceOf(address(licenses)), inLicenses);
        assertEq(token.balanceOf(arbiter), 0);
        assertEq(disputes.creditOf(address(token), arbiter), 0);
        schedule(arbiter, address(disputes), ruling(true));
        wait(RULING_DELAY);
        vm.expectRevert(
            abi.encodeWithSignature("DisputeNotOpen(uint256,uint8)", _disputeId, uint8(DisputeState.Upheld))
        );
        callAs(arbiter, address(disputes), ruling(true));
    }

    /* THE WORLD */

    /// @dev Escrow of 7 prices; a batch with a reward to claim, one in dispute, one in points; a sale with royalties; a bond.
    function world() private {
        uint64 task = aTask(10 * PRICE);
        ProvenanceEvent[] memory events = new ProvenanceEvent[](3);
        events[0] = anEvent(0, contributor, PRICE);
        events[1] = anEvent(1, contributor, PRICE);
        events[2] = anEvent(2, address(0), PRICE);
        for (uint256 i = 0; i < 3; ++i) {
            events[i].taskId = task;
            _events.push(events[i]);
        }
        Batch memory batch = aPaidBatch(0, task, PRICE, 2 * PRICE);
        batch.root = treeOf(events)[0];
        batch.eventCount = 3;
        anchor(batch);

        fund(stranger, address(disputes), 5 * PRICE);
        vm.prank(stranger);
        disputes.depositBond(provider, 5 * PRICE);
        bytes32[] memory proof = treeOf(events).proofOf(log.leafOf(events[1]));
        fund(challenger, address(disputes), PRICE);
        vm.prank(challenger);
        _disputeId = disputes.challenge(provider, 0, events[1], proof, Ground.Duplicate, 0, "");

        Member[] memory members = new Member[](1);
        members[0] = aMember(0, contributor, 1);
        _members.push(members[0]);
        _ipId = register(contentOf(members));
        _offerId = offer(_ipId, someTerms());
        sell(_ipId, _offerId, 1000e6);
    }

    /// @dev Everybody gets exactly what is its own, whatever the roles did meanwhile.
    function settleWorld() private {
        wait(60 days);
        ProvenanceEvent[] memory events = _events;
        log.claim(provider, 0, events[0], treeOf(events).proofOf(log.leafOf(events[0])));
        assertEq(token.balanceOf(contributor), PRICE);
        disputes.lapse(_disputeId);
        disputes.payCredit(address(token), contributor);
        disputes.payCredit(address(token), challenger);
        assertEq(token.balanceOf(contributor), 2 * PRICE);
        assertEq(token.balanceOf(challenger), PRICE);
        licenses.claimRoyalty(_ipId, 1, _members[0], new bytes32[](0));
        assertEq(token.balanceOf(contributor), 2 * PRICE + 700e6);

        log.sweepPoints(provider);
        assertEq(token.balanceOf(address(treasury)), PRICE);
        PointsDebit[] memory debits = new PointsDebit[](1);
        debits[0] = PointsDebit({payoutId: keccak256("payout"), account: keccak256("points"), amount: PRICE});
        vm.prank(operator);
        treasury.redeem(debits, settlement);
        assertEq(token.balanceOf(settlement), PRICE);

        uint64 task = log.taskCount();
        vm.prank(sponsor);
        log.refundTask(task);
        assertEq(token.balanceOf(sponsor), 7 * PRICE);
        vm.prank(provider);
        disputes.requestBondWithdrawal(5 * PRICE);
        wait(60 days);
        vm.prank(provider);
        disputes.withdrawBond();
        assertEq(token.balanceOf(provider), 300e6 + 5 * PRICE);

        Consent memory consent;
        (consent.contributor, consent.provider) = (contributor, provider);
        vm.prank(contributor);
        consents.withdraw(consent);
        assertEq(token.balanceOf(address(log)), 0);
        assertEq(token.balanceOf(address(disputes)), 0);
        assertEq(token.balanceOf(address(licenses)), 0);
    }

    /// @dev Every call by which money or its ways would change, as far as they are not open to anyone.
    function attacks() private view returns (address[] memory targets, bytes[] memory calls) {
        targets = new address[](16);
        calls = new bytes[](16);
        for (uint256 i = 0; i < 16; ++i) {
            targets[i] =
                i < 5 ? address(log) : i < 7 ? address(disputes) : i < 9 ? address(treasury) : address(licenses);
        }
        calls[0] = abi.encodeCall(log.hold, (provider, 0, 0, PRICE));
        calls[1] = abi.encodeCall(log.refundTask, (log.taskCount()));
        calls[2] = abi.encodeCall(log.setAttestor, (admin));
        calls[3] = abi.encodeCall(log.setChallengeWindow, (0));
        ProvenanceEvent memory stolen = _events[0];
        stolen.payee = admin;
        calls[4] = abi.encodeCall(log.claim, (provider, 0, stolen, new bytes32[](0)));
        calls[5] = abi.encodeCall(disputes.requestBondWithdrawal, (PRICE));
        calls[6] = abi.encodeCall(disputes.withdrawBond, ());
        PointsDebit[] memory debits = new PointsDebit[](1);
        debits[0] = PointsDebit({payoutId: keccak256("stolen"), account: keccak256("points"), amount: PRICE});
        calls[7] = abi.encodeCall(treasury.redeem, (debits, admin));
        calls[8] = abi.encodeCall(treasury.setOperator, (admin));
        calls[9] = abi.encodeCall(licenses.revoke, (1, "stolen"));
        calls[10] = abi.encodeCall(licenses.closeOffer, (_offerId));
        calls[11] = abi.encodeCall(licenses.publishOffer, (_ipId, someTerms()));
        calls[12] = abi.encodeCall(licenses.transferFrom, (buyer, admin, 1));
        calls[13] = abi.encodeCall(licenses.approve, (admin, 1));
        Member memory member = _members[0];
        member.payee = admin;
        calls[14] = abi.encodeCall(licenses.claimRoyalty, (_ipId, 1, member, new bytes32[](0)));
        (targets[15], calls[15]) = (address(ips), abi.encodeCall(ips.registerVersion, (_ipId, contentOf(_members), "")));
    }

    /// @dev Who holds and is owed how much.
    function holdings() private view returns (bytes32) {
        bytes memory inContracts = abi.encode(
            token.balanceOf(address(log)),
            token.balanceOf(address(licenses)),
            token.balanceOf(address(disputes)),
            token.balanceOf(address(treasury)),
            disputes.bondOf(provider),
            log.taskOf(log.taskCount()),
            log.providerOf(provider),
            log.unclaimedOf(provider, 0),
            licenses.accumulatorOf(_ipId, 1),
            licenses.verify(1).holder
        );
        address[8] memory accounts =
            [admin, provider, operator, sponsor, challenger, contributor, buyer, address(authority)];
        for (uint256 i = 0; i < accounts.length; ++i) {
            inContracts =
                abi.encode(inContracts, token.balanceOf(accounts[i]), disputes.creditOf(address(token), accounts[i]));
        }
        return keccak256(inContracts);
    }
}
