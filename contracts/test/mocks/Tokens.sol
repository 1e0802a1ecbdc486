// SPDX-License-Identifier: MIT OR Apache-2.0
// Tokens that misbehave.
pragma solidity ^0.8.28;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// @notice Keeps one unit of every transfer.
contract FeeToken is ERC20("Fee", "FEE") {
    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }

    function _update(address from, address to, uint256 value) internal override {
        super._update(from, to, value);
        if (from != address(0) && to != address(0)) super._update(to, address(0xfee), 1);
    }
}

/// @notice Calls somebody back before a transfer, as ERC-777 does; keeps what the call reverted with.
contract HookToken is ERC20("Hook", "HOOK") {
    address private _target;
    bytes private _call;
    bytes public failure;

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }

    function onTransfer(address target, bytes calldata call) external {
        _target = target;
        _call = call;
    }

    function _update(address from, address to, uint256 value) internal override {
        address target = _target;
        if (target != address(0)) {
            _target = address(0);
            (bool ok, bytes memory returned) = target.call(_call);
            if (!ok) failure = returned;
        }
        super._update(from, to, value);
    }
}
