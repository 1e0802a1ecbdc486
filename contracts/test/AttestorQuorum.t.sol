// SPDX-License-Identifier: MIT OR Apache-2.0
// AttestorQuorum: enough distinct members, and an answer to whatever is asked.
pragma solidity ^0.8.28;

import {AttestorQuorum} from "../src/AttestorQuorum.sol";
import {IAttestorQuorum} from "../interfaces/IAttestorQuorum.sol";
import {Test} from "./Vm.sol";

contract AttestorQuorumTest is Test {
    bytes4 private constant VALID = 0x1626ba7e;
    bytes4 private constant INVALID = 0xffffffff;
    bytes32 private constant DIGEST = keccak256("digest");

    AttestorQuorum private _quorum;
    /// Ascending by address.
    uint256[3] private _keys;
    address[] private _members;

    function setUp() external {
        _keys = [keyOf("a"), keyOf("b"), keyOf("c")];
        for (uint256 i = 0; i < 3; ++i) {
            for (uint256 j = i + 1; j < 3; ++j) {
                if (vm.addr(_keys[j]) < vm.addr(_keys[i])) (_keys[i], _keys[j]) = (_keys[j], _keys[i]);
            }
        }
        for (uint256 i = 0; i < 3; ++i) {
            _members.push(vm.addr(_keys[i]));
        }
        _quorum = new AttestorQuorum(_members, 2);
    }

    function answer(bytes memory signature) private view returns (bytes4) {
        return _quorum.isValidSignature(DIGEST, signature);
    }

    function assertAnswer(bytes memory signature, bytes4 expected) private view {
        assertEq(bytes32(answer(signature)), bytes32(expected));
    }

    function test_RevertWhen_ThresholdIsZeroOrAboveMembers() external {
        vm.expectRevert(abi.encodeWithSelector(IAttestorQuorum.ThresholdInvalid.selector, 0, 3));
        new AttestorQuorum(_members, 0);
        vm.expectRevert(abi.encodeWithSelector(IAttestorQuorum.ThresholdInvalid.selector, 4, 3));
        new AttestorQuorum(_members, 4);
    }

    function test_RevertWhen_MembersAreUnorderedOrDoubleOrZero() external {
        address[] memory members = new address[](2);
        (members[0], members[1]) = (_members[1], _members[0]);
        vm.expectRevert(abi.encodeWithSelector(IAttestorQuorum.MembersUnordered.selector, _members[1], _members[0]));
        new AttestorQuorum(members, 1);
        members[1] = members[0];
        vm.expectRevert(abi.encodeWithSelector(IAttestorQuorum.MembersUnordered.selector, _members[1], _members[1]));
        new AttestorQuorum(members, 1);
        members[0] = address(0);
        vm.expectRevert(abi.encodeWithSelector(IAttestorQuorum.MembersUnordered.selector, address(0), address(0)));
        new AttestorQuorum(members, 1);
    }

    function test_WhenDeployed() external view {
        assertEq(_quorum.threshold(), 2);
        assertEq(_quorum.members().length, 3);
        assertEq(_quorum.members()[2], _members[2]);
        assertTrue(_quorum.isAttestor(_members[0]));
        assertFalse(_quorum.isAttestor(address(this)));
    }

    function test_WhenAnyTwoOfThreeSigned() external view {
        for (uint256 i = 0; i < 3; ++i) {
            for (uint256 j = 0; j < 3; ++j) {
                assertAnswer(bytes.concat(sign(_keys[i], DIGEST), sign(_keys[j], DIGEST)), i < j ? VALID : INVALID);
            }
        }
    }

    function test_WhenOnlyOneSigned() external view {
        assertAnswer(sign(_keys[0], DIGEST), INVALID);
    }

    function test_WhenThereIsOneSignatureTooMany() external view {
        assertAnswer(bytes.concat(sign(_keys[0], DIGEST), sign(_keys[1], DIGEST), sign(_keys[2], DIGEST)), INVALID);
    }

    function test_WhenOneSignerIsNoMember() external view {
        uint256 key = keyOf("x");
        bytes memory member = sign(_keys[1], DIGEST);
        bytes memory other = sign(key, DIGEST);
        assertAnswer(vm.addr(key) < _members[1] ? bytes.concat(other, member) : bytes.concat(member, other), INVALID);
    }

    function test_WhenAnotherDigestWasSigned() external view {
        bytes32 other = keccak256("other");
        assertAnswer(bytes.concat(sign(_keys[0], other), sign(_keys[1], other)), INVALID);
    }

    function testFuzz_WhenTheSignatureIsGarbage(bytes calldata garbage) external view {
        assertAnswer(garbage, INVALID);
        bytes memory padded = new bytes(130);
        for (uint256 i = 0; i < garbage.length && i < 130; ++i) {
            padded[i] = garbage[i];
        }
        assertAnswer(padded, INVALID);
    }
}
