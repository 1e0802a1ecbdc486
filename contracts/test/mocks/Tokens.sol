// SPDX-License-Identifier: MIT OR Apache-2.0
// Tokens that misbehave. Anyone may mint them and pull their levers.
pragma solidity ^0.8.28;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";

/// @notice Keeps one unit, or whatever it is set to, of every transfer.
contract FeeToken is ERC20("Fee", "FEE") {
    uint256 public fee = 1;

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }

    function setFee(uint256 fee_) external {
        fee = fee_;
    }

    function _update(address from, address to, uint256 value) internal override {
        super._update(from, to, value);
        if (from != address(0) && to != address(0)) super._update(to, address(0xfee), fee);
    }
}

/// @notice Calls somebody back before a transfer, as ERC-777 does; keeps what the call reverted with.
contract HookToken is ERC20("Hook", "HOOK") {
    address private _target;
    bytes private _call;
    bytes public failure;
    uint256 public hooks;

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
            ++hooks;
            (bool ok, bytes memory returned) = target.call(_call);
            if (!ok) failure = returned;
        }
        super._update(from, to, value);
    }
}

/// @notice Multiplies every balance by a factor, up or down.
contract RebasingToken is ERC20("Rebasing", "REB") {
    uint256 private constant ONE = 1e18;
    uint256 private _factor = ONE;

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }

    function rebase(uint256 factor) external {
        _factor = factor;
    }

    function balanceOf(address account) public view override returns (uint256) {
        return super.balanceOf(account) * _factor / ONE;
    }

    function _update(address from, address to, uint256 value) internal override {
        super._update(from, to, (value * ONE + _factor - 1) / _factor);
    }
}

/// @notice Returns false and moves nothing where others revert, and whenever it is told to.
contract FalseToken is ERC20("False", "FALSE") {
    bool private _failing;

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }

    function setFailing(bool failing) external {
        _failing = failing;
    }

    function transfer(address to, uint256 amount) public override returns (bool) {
        return !_failing && balanceOf(msg.sender) >= amount && super.transfer(to, amount);
    }

    function transferFrom(address from, address to, uint256 amount) public override returns (bool) {
        return !_failing && balanceOf(from) >= amount && allowance(from, msg.sender) >= amount
            && super.transferFrom(from, to, amount);
    }
}

/// @notice Returns nothing, as USDT does.
contract SilentToken {
    mapping(address account => uint256) public balanceOf;
    mapping(address owner => mapping(address spender => uint256)) public allowance;

    function mint(address to, uint256 amount) external {
        balanceOf[to] += amount;
    }

    function approve(address spender, uint256 amount) external {
        allowance[msg.sender][spender] = amount;
    }

    function transfer(address to, uint256 amount) external {
        _move(msg.sender, to, amount);
    }

    function transferFrom(address from, address to, uint256 amount) external {
        allowance[from][msg.sender] -= amount;
        _move(from, to, amount);
    }

    function _move(address from, address to, uint256 amount) private {
        balanceOf[from] -= amount;
        balanceOf[to] += amount;
    }
}

/// @notice Refuses transfers from and to blocked accounts, as USDC and USDT do.
contract BlocklistToken is ERC20("Blocklist", "BLOCK") {
    error Blocked(address account);

    mapping(address account => bool) public isBlocked;

    function mint(address to, uint256 amount) external {
        _mint(to, amount);
    }

    function setBlocked(address account, bool blocked) external {
        isBlocked[account] = blocked;
    }

    function _update(address from, address to, uint256 value) internal override {
        require(!isBlocked[from], Blocked(from));
        require(!isBlocked[to], Blocked(to));
        super._update(from, to, value);
    }
}
